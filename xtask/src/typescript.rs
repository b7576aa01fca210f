//! The TypeScript client: the judgement tables in its language, and its tests.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Context;
use semel_core::{policy::Preset, retry::Judgement};
use serde_json::{Map, Value};

use crate::{npm, shell};

const BY_HAND: &str = "// Written by `cargo xtask generate` from crates/semel-core/judgement; do not edit.\n";

/// Installs what the lockfile says, builds, and runs every test.
pub(crate) fn test() -> anyhow::Result<()> {
    shell::stage("test the TypeScript client");
    npm::test(&shell::root().join("clients/typescript"))
}

/// `src/tables.ts`: the tables without what only people and logs read.
pub(crate) fn tables() -> anyhow::Result<String> {
    let mut page = format!("{BY_HAND}\nimport type {{ Table }} from \"./judge.js\";\n");
    for preset in Preset::ALL {
        let mut table = table(preset)?;
        let doc = table.remove("doc").unwrap_or_default();
        table.remove("log");
        for rule in rules(&mut table) {
            strip(rule);
        }
        let (name, doc) = (preset.name(), doc.as_str().context("a doc is a text")?);
        write!(page, "\n/** {doc} */\nexport const {name}: Table = {{\n")?;
        for (member, value) in table {
            match value {
                Value::Array(entries) => {
                    writeln!(page, "  {member}: [")?;
                    for entry in entries {
                        writeln!(page, "    {},", in_order(&entry))?;
                    }
                    page.push_str("  ],\n");
                }
                value => writeln!(page, "  {member}: {value},")?,
            }
        }
        page.push_str("};\n");
    }
    Ok(page)
}

/// `src/logs.ts`: where the contents of each API have what is logged.
pub(crate) fn logs() -> anyhow::Result<String> {
    let mut page = format!(
        "{BY_HAND}\nimport type {{ LogFields }} from \"./log.js\";\n\n\
         export const LOGS: {{ [preset: string]: LogFields }} = {{\n"
    );
    for preset in Preset::ALL {
        let log = table(preset)?.remove("log").unwrap_or_default();
        writeln!(page, "  {}: {log},", preset.name())?;
    }
    page.push_str("};\n");
    Ok(page)
}

/// `src/says.ts`: what each reason of each table is for people.
pub(crate) fn says() -> anyhow::Result<String> {
    let mut page = format!("{BY_HAND}\nexport const SAYS: {{ [preset: string]: {{ [why: string]: string }} }} = {{\n");
    for preset in Preset::ALL {
        let mut says = BTreeMap::new();
        for rule in rules(&mut table(preset)?) {
            // Where two rules have one reason, or a rule has it and its `otherwise`, a result ends by the latter.
            for conclusion in [Some(&*rule), rule.get("otherwise").and_then(Value::as_object)].into_iter().flatten() {
                if let (Some(why), Some(say)) = (conclusion.get("why"), conclusion.get("say")) {
                    says.insert(why.to_string(), say.to_string());
                }
            }
        }
        writeln!(page, "  {}: {{", preset.name())?;
        for (why, say) in says {
            writeln!(page, "    {why}: {say},")?;
        }
        page.push_str("  },\n");
    }
    page.push_str("};\n");
    Ok(page)
}

fn table(preset: Preset) -> anyhow::Result<Map<String, Value>> {
    serde_json::from_str(Judgement::source(preset)).with_context(|| format!("the table {}", preset.name()))
}

fn rules(table: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let rules = table.get_mut("rules").and_then(Value::as_array_mut);
    rules.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// JSON with the members of a rule in this order, which compresses best: what is often the same stands at both ends.
fn in_order(value: &Value) -> String {
    const ORDER: [&str; 6] = ["verdict", "otherwise", "why", "resumable", "proves", "when"];
    let Value::Object(object) = value else { return value.to_string() };
    let mut members: Vec<(&String, &Value)> = object.iter().collect();
    members.sort_by_key(|(name, _)| ORDER.iter().position(|one| one == name));
    let members =
        members.into_iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), in_order(value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn strip(conclusion: &mut Map<String, Value>) {
    conclusion.remove("say");
    conclusion.remove("rows");
    // What is not there is false.
    if conclusion.get("resumable") == Some(&Value::Bool(false)) {
        conclusion.remove("resumable");
    }
    if let Some(otherwise) = conclusion.get_mut("otherwise").and_then(Value::as_object_mut) {
        strip(otherwise);
    }
}
