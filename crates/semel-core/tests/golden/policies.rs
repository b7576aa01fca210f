use expect_test::{ExpectFile, expect, expect_file};
use semel_core::{
    policy::{Effect, Policy, Preset, RoutePolicy},
    wire::ProblemType,
};

use crate::read;

fn render(route: &RoutePolicy) -> String {
    let effects = [Effect::Happened, Effect::None, Effect::Unknown].map(|effect| {
        let ranges: Vec<String> = route
            .statuses_that_mean(effect)
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        format!("effect {effect:?}: {}", ranges.join(" "))
    });
    let statuses: Vec<String> =
        ProblemType::ALL.iter().map(|kind| format!("{} {}", kind.code(), route.status_of(*kind).as_u16())).collect();
    format!(
        "{route:#?}\n{}\nmismatch: {:?}\nlease: {:?}\n{}\n",
        effects.join("\n"),
        route.mismatch(),
        route.lease(),
        statuses.join("\n")
    )
}

#[test]
fn the_settings_of_every_preset() {
    check_preset(Preset::Ietf, &expect_file!["presets/ietf.txt"]);
    check_preset(Preset::Stripe, &expect_file!["presets/stripe.txt"]);
    check_preset(Preset::Credicorp, &expect_file!["presets/credicorp.txt"]);
    check_preset(Preset::Etherfuse, &expect_file!["presets/etherfuse.txt"]);
    check_preset(Preset::Yonne, &expect_file!["presets/yonne.txt"]);
    check_preset(Preset::Nora, &expect_file!["presets/nora.txt"]);
}

fn check_preset(preset: Preset, expected: &ExpectFile) {
    let policy = Policy::preset(preset);
    let routes: Vec<String> = policy.routes().iter().map(|route| render(route)).collect();
    expected.assert_eq(&format!("principal: {:?}\n{}", policy.principal(), routes.join("\n")));
}

#[test]
fn every_preset_builds_and_has_one_name() {
    for preset in Preset::ALL {
        assert!(!Policy::preset(preset).routes().is_empty());
        assert_eq!(preset.name().parse(), Ok(preset));
        assert!(read(&format!("preset = \"{}\"", preset.name())).is_ok());
    }
    expect![[r#"unknown preset "paypal"; the presets are ietf, stripe, etherfuse, credicorp, yonne, nora"#]]
        .assert_eq(&"paypal".parse::<Preset>().expect_err("no such preset"));
}

/// A route's own settings, over the defaults, over the preset.
#[test]
fn settings_are_layered() {
    let policy = read(
        r#"
        preset = "stripe"
        [defaults]
        replay_for = "1h"
        effect_none = ["402"]
        [defaults.problems]
        in-flight = { status = 425 }
        [[route]]
        path = "/a"
        wait_max = "2s"
        [[route]]
        path = "/b"
        replay_for = "250ms"
        [route.problems]
        key-reused = { status = 409 }
        "#,
    )
    .unwrap_or_else(|refused| panic!("{}", refused.message));
    let shown: Vec<String> = policy
        .routes()
        .iter()
        .map(|route| {
            format!(
                "{} replay_for {:?} wait_max {:?} effect of 402 {:?} of 403 {:?} in-flight {} key-reused {} key-missing {}",
                route.name(),
                route.replay_for,
                route.wait_max,
                route.effect_of(402),
                route.effect_of(403),
                route.status_of(ProblemType::InFlight).as_u16(),
                route.status_of(ProblemType::KeyReused).as_u16(),
                route.status_of(ProblemType::KeyMissing).as_u16(),
            )
        })
        .collect();
    expect![[r#"
        /a replay_for 3600s wait_max 2s effect of 402 None of 403 Happened in-flight 425 key-reused 400 key-missing 400
        /b replay_for 250ms wait_max 0ns effect of 402 None of 403 Happened in-flight 425 key-reused 409 key-missing 400"#]].assert_eq(&shown.join("\n"));
}

/// Every mistake is refused, at its line, in words that name what would be right.
#[test]
fn mistakes() {
    let mistakes = [
        // Unknown names.
        "preset = \"paypal\"",
        "prest = \"ietf\"",
        "[[route]]\npath = \"/a\"\nreplay_fro = \"1h\"",
        "[[route]]\nkey = \"cookie\"",
        "[[route]]\nkey_grammar = \"uuid-v5\"",
        "[[route]]\nkey_form = \"loose\"",
        "[[route]]\nkey_presence = \"yes\"",
        "[[route]]\nfingerprint = \"sha256\"",
        "[[route]]\nreply = \"never\"",
        "[[route]]\non_completed = \"replays\"",
        "[[route]]\non_unknown = \"retry\"",
        "[[route]]\non_expired = \"forget\"",
        "[[route]]\non_late = \"maybe\"",
        "[[route]]\n[route.problems]\nkey-lost = { status = 409 }",
        // Wrong types and values.
        "[[route]]\nmethods = \"POST\"",
        "[[route]]\nmethods = [\"post\"]",
        "[[route]]\nmethods = [\"PO ST\"]",
        "[[route]]\nkey_bytes_max = \"255\"",
        "[[route]]\nkey_bytes_max = -1",
        "[[route]]\nkey_header = \"Idempotency Key\"",
        "[[route]]\nkey_member = \"orderId\"",
        "[[route]]\nkey_member = \"/a~2\"",
        "[[route]]\npath = \"orders\"",
        "[[route]]\npath = \"/orders?x=1\"",
        "[[route]]\npath = \"/orders/*/x\"",
        "[[route]]\npath = \"/orders/{id}.json\"",
        "[[route]]\npath = \"/orders/{}\"",
        "[[route]]\nreplay_for = 24",
        "[[route]]\nreplay_for = \"a day\"",
        "[[route]]\nreplay_for = \"-1s\"",
        "[[route]]\nreplay_for = \"11years\"",
        "[[route]]\nreplay_for = \"100us\"",
        "[[route]]\nreplay_for = \"1ms 1ns\"",
        "[[route]]\nrequest_body_bytes_max = \"many\"",
        "[[route]]\nrequest_body_bytes_max = -1",
        "[[route]]\nreply_body_bytes_max = [1]",
        "[[route]]\neffect_none = [\"4xy\"]",
        "[[route]]\neffect_none = [\"1xx\"]",
        "[[route]]\neffect_none = [\"600\"]",
        "[[route]]\neffect_none = [\"450-440\"]",
        "[[route]]\neffect_none = [404]",
        "[[route]]\n[route.problems]\nin-flight = { status = 200 }",
        "[[route]]\n[route.problems]\nin-flight = { status = \"409\" }",
        // What is right by itself and wrong together; the line is the route's.
        "\n[[route]]\nmethods = []",
        "\n[[route]]\nmethods = [\"POST\", \"GET\"]",
        "\n[[route]]\nkey = \"member\"",
        "\n[[route]]\nfingerprint = \"members\"",
        "\n[[route]]\neffect_happened = [\"404\"]\neffect_none = [\"404\"]",
        "\n[[route]]\neffect_happened = [\"2xx\", \"4xx\"]",
        "\n[[route]]\neffect_none = [\"400-499\"]\neffect_unknown = [\"450-550\"]",
        "\n[[route]]\nexecution_max = \"0s\"",
        "\n[[route]]\nrequest_read_max = \"0s\"",
        "\n[[route]]\nreplay_for = \"0s\"",
        "\n[[route]]\nremember_for = \"1h\"",
        "\n[[route]]\nexecution_max = \"2h\"\nreplay_for = \"1h\"\nremember_for = \"1h\"",
        "\n[[route]]\nunknown_for = \"30s\"",
        "\n[[route]]\nkey_bytes_max = 0",
        "\n[[route]]\nrequest_body_bytes_max = \"65 MiB\"",
        "\n[[route]]\nreply_body_bytes_max = \"17 MiB\"",
        "\n[[route]]\nresource = \"orders/{key}\"",
        "\n[[route]]\nresource = \"/orders?id={key}\"",
        "\n[[route]]\nresource = \"/orders/{key}/*\"",
        // Probes, and keys that an origin is to know again.
        "\n[[route]]\non_unknown = \"probe\"",
        "\n[[route]]\n[route.probe]\npath = \"/o/{key}\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\nfound = [\"200\"]",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"o/{key}\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key} \"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{}\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o\"",
        "\n[[route]]\npath = \"/p/{id}\"\non_unknown = \"probe\"\n[route.probe]\npath = \"/p/{ip}/{key}\"",
        "\n[[route]]\npath = \"/p/{id}\"\nkey = \"operation\"\non_unknown = \"probe\"\n[route.probe]\npath = \"/p/{key}\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nabsent = [\"200\"]",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nabsent = []",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nabsent = [\"4xx\", \"503\"]",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nstatus = 404",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nkeep = \"member\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nmember = \"id\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nprobe_max = \"0s\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nafter = \"34s\"",
        "\n[[route]]\non_unknown = \"probe\"\nunknown_for = \"60s\"\n[route.probe]\npath = \"/o/{key}\"",
        "\n[[route]]\non_unknown = \"probe\"\n[route.probe]\npath = \"/o/{key}\"\nmethod = \"POST\"",
        "\n[[route]]\non_unknown = \"forward-key\"\nkey_sent = \"as-received\"",
        "\n[[route]]\nkey_sent = \"hashed\"",
        "\n[defaults.probe]\npath = \"/o/{key}\"",
        "\n[[route]]\npath = \"/shops/{shop}\"\nresource = \"/shops/{shops}/{key}\"",
        "[[route]]\npath = \"/a\"\n\n[[route]]\npath = \"/b\"\nmethods = []",
        "\n[defaults]\npath = \"/a\"",
        "\n[defaults]\nmethods = []",
    ];
    let shown: Vec<String> = mistakes
        .iter()
        .map(|text| match read(text) {
            Ok(_) => format!("{}\n  is accepted", text.trim().replace('\n', " ; ")),
            Err(refused) => {
                format!("{}\n  line {}: {}", text.trim().replace('\n', " ; "), refused.line, refused.message.trim())
            }
        })
        .collect();
    assert!(!shown.iter().any(|line| line.ends_with("is accepted")), "{}", shown.join("\n"));
    expect![[r#"
        preset = "paypal"
          line 1: unknown variant `paypal`, expected one of `ietf`, `stripe`, `etherfuse`, `credicorp`, `yonne`, `nora`
        prest = "ietf"
          line 1: unknown field `prest`, expected one of `preset`, `defaults`, `route`
        [[route]] ; path = "/a" ; replay_fro = "1h"
          line 3: unknown field `replay_fro`, expected one of `methods`, `path`, `key`, `key_header`, `key_member`, `key_grammar`, `key_form`, `key_sent`, `key_presence`, `attempt_suffix`, `key_bytes_max`, `fingerprint`, `fingerprint_ignore`, `fingerprint_members`, `effect_happened`, `effect_none`, `effect_unknown`, `reply`, `on_completed`, `on_mismatch`, `on_unknown`, `on_expired`, `on_late`, `execution_max`, `grace`, `wait_max`, `replay_for`, `remember_for`, `unknown_for`, `request_read_max`, `request_body_bytes_max`, `reply_body_bytes_max`, `marker`, `replay_member`, `headers_omitted`, `resource`, `problems`, `probe`, `guard`, `release`
        [[route]] ; key = "cookie"
          line 2: unknown variant `cookie`, expected one of `header`, `member`, `operation`
        [[route]] ; key_grammar = "uuid-v5"
          line 2: unknown variant `uuid-v5`, expected one of `any`, `uuid`, `uuid-v4`, `uuid-v7`
        [[route]] ; key_form = "loose"
          line 2: unknown variant `loose`, expected `lenient` or `strict`
        [[route]] ; key_presence = "yes"
          line 2: unknown variant `yes`, expected `optional` or `required`
        [[route]] ; fingerprint = "sha256"
          line 2: unknown variant `sha256`, expected one of `raw`, `json`, `members`
        [[route]] ; reply = "never"
          line 2: unknown variant `never`, expected `kept` or `omitted`
        [[route]] ; on_completed = "replays"
          line 2: unknown variant `replays`, expected `replay` or `conflict`
        [[route]] ; on_unknown = "retry"
          line 2: unknown variant `retry`, expected one of `refuse`, `reexecute`, `forward-key`, `probe`
        [[route]] ; on_expired = "forget"
          line 2: unknown variant `forget`, expected `refuse` or `execute`
        [[route]] ; on_late = "maybe"
          line 2: unknown variant `maybe`, expected `ignore` or `refuse`
        [[route]] ; [route.problems] ; key-lost = { status = 409 }
          line 3: unknown variant `key-lost`, expected one of `key-missing`, `key-invalid`, `key-reused`, `in-flight`, `outcome-unknown`, `reply-gone`, `store-unavailable`, `request-too-large`, `request-timeout`, `request-incomplete`, `resource-exists`, `resource-id-reused`, `slot-taken`, `guard-held`, `guard-incomplete`, `too-late`, `origin-unavailable`, `unauthenticated`, `identity-unavailable`, `quota-exceeded`
        [[route]] ; methods = "POST"
          line 2: invalid type: string "POST", expected a sequence
        [[route]] ; methods = ["post"]
          line 2: expected a method such as "POST", found "post"
        [[route]] ; methods = ["PO ST"]
          line 2: expected a method such as "POST", found "PO ST"
        [[route]] ; key_bytes_max = "255"
          line 2: invalid type: string "255", expected usize
        [[route]] ; key_bytes_max = -1
          line 2: invalid value: integer `-1`, expected usize
        [[route]] ; key_header = "Idempotency Key"
          line 2: expected a header name, found "Idempotency Key"
        [[route]] ; key_member = "orderId"
          line 2: expected a JSON Pointer (RFC 6901) such as "/orderId", found "orderId"
        [[route]] ; key_member = "/a~2"
          line 2: expected a JSON Pointer (RFC 6901) such as "/orderId", found "/a~2"
        [[route]] ; path = "orders"
          line 2: the path template "orders" must start with a slash
        [[route]] ; path = "/orders?x=1"
          line 2: the path template "/orders?x=1" must not hold a query or fragment; the query always counts in the fingerprint
        [[route]] ; path = "/orders/*/x"
          line 2: the path template "/orders/*/x" may use {name} for one whole segment, and * as the last one
        [[route]] ; path = "/orders/{id}.json"
          line 2: the path template "/orders/{id}.json" may use {name} for one whole segment, and * as the last one
        [[route]] ; path = "/orders/{}"
          line 2: the path template "/orders/{}" may use {name} for one whole segment, and * as the last one
        [[route]] ; replay_for = 24
          line 2: invalid type: integer `24`, expected a string
        [[route]] ; replay_for = "a day"
          line 2: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "a day"
        [[route]] ; replay_for = "-1s"
          line 2: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "-1s"
        [[route]] ; replay_for = "11years"
          line 2: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "11years"
        [[route]] ; replay_for = "100us"
          line 2: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "100us"
        [[route]] ; replay_for = "1ms 1ns"
          line 2: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "1ms 1ns"
        [[route]] ; request_body_bytes_max = "many"
          line 2: expected a size such as "1 MiB", "512 KiB" or 65536, found "many"
        [[route]] ; request_body_bytes_max = -1
          line 2: expected a size such as "1 MiB", "512 KiB" or 65536
        [[route]] ; reply_body_bytes_max = [1]
          line 2: expected a size such as "1 MiB", "512 KiB" or 65536
        [[route]] ; effect_none = ["4xy"]
          line 2: expected a final status such as "422", "4xx" or "500-504", found "4xy"
        [[route]] ; effect_none = ["1xx"]
          line 2: expected a final status such as "422", "4xx" or "500-504", found "1xx"
        [[route]] ; effect_none = ["600"]
          line 2: expected a final status such as "422", "4xx" or "500-504", found "600"
        [[route]] ; effect_none = ["450-440"]
          line 2: expected a final status such as "422", "4xx" or "500-504", found "450-440"
        [[route]] ; effect_none = [404]
          line 2: invalid type: integer `404`, expected a string
        [[route]] ; [route.problems] ; in-flight = { status = 200 }
          line 3: expected a status from 400 to 599, found 200
        [[route]] ; [route.problems] ; in-flight = { status = "409" }
          line 3: invalid type: string "409", expected u16
        [[route]] ; methods = []
          line 2: `methods` must name at least one method
        [[route]] ; methods = ["POST", "GET"]
          line 2: `methods` must not name GET, which is safe to retry by itself (RFC 9110 section 9.2.1)
        [[route]] ; key = "member"
          line 2: `key = "member"` needs `key_member`, a JSON Pointer such as "/orderId"
        [[route]] ; fingerprint = "members"
          line 2: `fingerprint = "members"` needs `fingerprint_members`, a list of JSON Pointers
        [[route]] ; effect_happened = ["404"] ; effect_none = ["404"]
          line 2: status 404 is named by more than one of effect_happened, effect_none, effect_unknown
        [[route]] ; effect_happened = ["2xx", "4xx"]
          line 2: status 400 is named by more than one of effect_happened, effect_none, effect_unknown
        [[route]] ; effect_none = ["400-499"] ; effect_unknown = ["450-550"]
          line 2: status 450 is named by more than one of effect_happened, effect_none, effect_unknown
        [[route]] ; execution_max = "0s"
          line 2: `execution_max` must be more than zero
        [[route]] ; request_read_max = "0s"
          line 2: `request_read_max` must be more than zero
        [[route]] ; replay_for = "0s"
          line 2: `replay_for` must be more than zero
        [[route]] ; remember_for = "1h"
          line 2: `remember_for` must be at least `replay_for`
        [[route]] ; execution_max = "2h" ; replay_for = "1h" ; remember_for = "1h"
          line 2: `remember_for` must be at least `execution_max` + `grace`
        [[route]] ; unknown_for = "30s"
          line 2: `unknown_for` must be at least `execution_max` + `grace`, or a running claim would be forgotten
        [[route]] ; key_bytes_max = 0
          line 2: `key_bytes_max` must be more than zero
        [[route]] ; request_body_bytes_max = "65 MiB"
          line 2: `request_body_bytes_max` must be at most 64 MiB, since the content is held in memory
        [[route]] ; reply_body_bytes_max = "17 MiB"
          line 2: `reply_body_bytes_max` must be at most 16 MiB, since a kept reply is one record
        [[route]] ; resource = "orders/{key}"
          line 2: `resource` must be a path such as "/orders/{key}": the path template "orders/{key}" must start with a slash
        [[route]] ; resource = "/orders?id={key}"
          line 2: `resource` must be a path such as "/orders/{key}": the path template "/orders?id={key}" must not hold a query or fragment; the query always counts in the fingerprint
        [[route]] ; resource = "/orders/{key}/*"
          line 2: `resource` must be a path such as "/orders/{key}": it must not end with *
        [[route]] ; on_unknown = "probe"
          line 2: `on_unknown = "probe"` needs [route.probe], which says where the origin tells what it did: path = "/orders/by-key/{key}"
        [[route]] ; [route.probe] ; path = "/o/{key}"
          line 2: [route.probe] needs `on_unknown = "probe"`
        [[route]] ; on_unknown = "probe" ; [route.probe] ; found = ["200"]
          line 4: missing field `path`
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "o/{key}"
          line 5: the path of a probe, such as "/orders/by-key/{key}", must start with a slash; found "o/{key}"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key"
          line 5: the path of a probe, such as "/orders/by-key/{key}", has a brace too many; found "/o/{key"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key} "
          line 5: the path of a probe, such as "/orders/by-key/{key}", may hold the characters of a path and a query, and {name}; found "/o/{key} "
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{}"
          line 5: the path of a probe, such as "/orders/by-key/{key}", has a variable without a name; found "/o/{}"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o"
          line 2: the path of a probe must name what it asks for by {key}; found "/o"
        [[route]] ; path = "/p/{id}" ; on_unknown = "probe" ; [route.probe] ; path = "/p/{ip}/{key}"
          line 2: the path of a probe has no value for {ip} on the route "/p/{id}"; found "/p/{ip}/{key}"
        [[route]] ; path = "/p/{id}" ; key = "operation" ; on_unknown = "probe" ; [route.probe] ; path = "/p/{key}"
          line 2: the path of a probe has no value for {key} on the route "/p/{id}"; found "/p/{key}"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; absent = ["200"]
          line 2: a status shows either `found` or `absent`, not both
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; absent = []
          line 2: a probe needs a status for `found` and one for `absent`, such as ["200"] and ["404"]
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; absent = ["4xx", "503"]
          line 2: a 5xx says nothing of what happened: leave it out of `found` and `absent`
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; status = 404
          line 2: `status` must be one that means that it happened (see effect_happened), found 404
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; keep = "member"
          line 2: `keep = "member"` needs `member`, a JSON Pointer such as "/items/0"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; member = "id"
          line 6: expected a JSON Pointer (RFC 6901) such as "/orderId", found "id"
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; probe_max = "0s"
          line 2: `probe_max` must be more than zero
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; after = "34s"
          line 2: `after` must be at least `execution_max` + `grace`, or a request could arrive after it was taken for lost
        [[route]] ; on_unknown = "probe" ; unknown_for = "60s" ; [route.probe] ; path = "/o/{key}"
          line 2: `after` must be less than `unknown_for`, or an unknown outcome would be forgotten before it is settled
        [[route]] ; on_unknown = "probe" ; [route.probe] ; path = "/o/{key}" ; method = "POST"
          line 6: unknown field `method`, expected one of `path`, `found`, `absent`, `member`, `keep`, `status`, `probe_max`, `after`
        [[route]] ; on_unknown = "forward-key" ; key_sent = "as-received"
          line 2: `key_sent` must be "bare" or "quoted" where the origin is to know a key again (on_unknown): clients write one key in several ways, and the origin would take them for several keys
        [[route]] ; key_sent = "hashed"
          line 3: unknown variant `hashed`, expected one of `as-received`, `bare`, `quoted`
        [defaults.probe] ; path = "/o/{key}"
          line 2: `probe` belongs to a [[route]], not to [defaults]
        [[route]] ; path = "/shops/{shop}" ; resource = "/shops/{shops}/{key}"
          line 2: `resource` must be a path such as "/orders/{key}": {shops} is no variable of the route's path "/shops/{shop}"
        [[route]] ; path = "/a" ;  ; [[route]] ; path = "/b" ; methods = []
          line 4: `methods` must name at least one method
        [defaults] ; path = "/a"
          line 2: `path` belongs to a [[route]], not to [defaults]
        [defaults] ; methods = []
          line 2: `methods` must name at least one method"#]].assert_eq(&shown.join("\n"));
}

/// A guarded route and its release, in which one line is to be replaced.
const GUARDED: &str = r#"
[[route]]
path = "/orders/{shop}"
methods = ["POST"]
key = "member"
key_member = "/orderId"
key_presence = "required"
[route.guard]
name = "pending"
values = ["/account", { path = "/quotes", key = "/quoteId", member = "/amount" }]
when = [{ member = "/type", is = ["onramp"] }]
hold_for = "30d"
[[route.release]]
path = "/shops/{shop}/orders/{key}"
member = "/status"
held_while = ["created"]

[[route]]
path = "/quotes"
methods = ["POST"]
key = "member"
key_member = "/quoteId"
reply = "kept"

[[route]]
path = "/slots/{id}"
methods = ["POST"]
key = "operation"
[[route.release]]
path = "/slots/{id}/state"
member = "/status"
dead_when = ["free"]
"#;

#[test]
fn e10_q18_mistakes_in_guards_and_releases() {
    let policy = read(GUARDED).unwrap_or_else(|refused| panic!("line {}: {}", refused.line, refused.message));
    assert_eq!(policy.routes()[0].guard.as_ref().map(|guard| guard.values.len()), Some(2));
    assert_eq!(policy.routes()[2].releases[0].after, policy.routes()[2].lease());
    let (release, slot) = ("path = \"/shops/{shop}/orders/{key}\"", "path = \"/slots/{id}/state\"");
    let (quote, when) = ("path = \"/quotes\", key", "member = \"/type\", is = [\"onramp\"]");
    let mistakes = [
        // The guard.
        ("name = \"pending\"", ""),
        ("name = \"pending\"", "name = \"Pending order\""),
        ("name = \"pending\"", "name = \"pending\"\noverrides = true"),
        ("values = [\"/account\", ", "values = [\"account\", "),
        ("values = [\"/account\", ", "values = [1, "),
        ("values = [\"/account\", ", "values = [{ path = \"/quotes\", member = \"/a\" }, "),
        ("values = [\"/account\", ", "values = [{ member = \"/a\", is = [\"b\"] }, "),
        ("values = [\"/account\", ", "values = [{ key = \"/a\" }, "),
        (when, "member = \"/type\""),
        (when, "member = \"/type\", is = []"),
        (when, "member = \"/type\", is = [\" \"]"),
        ("hold_for = \"30d\"", "hold_for = \"34s\""),
        ("key_presence = \"required\"", ""),
        // What it refers to.
        (quote, "path = \"/quote\", key"),
        (quote, "path = \"/{any}\", key"),
        (quote, "path = \"/*\", key"),
        (quote, "path = \"/slots/1\", key"),
        (quote, "path = \"/orders/1\", key"),
        ("reply = \"kept\"", "reply = \"omitted\""),
        ("path = \"/quotes\"\nmethods = [\"POST\"]", "path = \"/quotes\"\nmethods = [\"POST\", \"PUT\"]"),
        // Releases.
        (release, "path = \"/shops/{shop}/orders\""),
        (release, "path = \"/orders/{key}\""),
        (release, "path = \"/shops/{shop}/orders/{key}/{key}\""),
        (release, "path = \"/shops/{shop}/orders/{key}/*\""),
        (release, "path = \"/shops/{shop}/orders/{key}\"\nmethods = [\"HEAD\"]"),
        (release, "path = \"/shops/{shop}/orders/{key}\"\nmethods = []"),
        (slot, "path = \"/slots/{slot}/state\""),
        ("held_while = [\"created\"]", ""),
        ("held_while = [\"created\"]", "held_while = []"),
        ("held_while = [\"created\"]", "dead_when = [\"created\"]"),
        ("held_while = [\"created\"]", "held_while = [\"created\"]\ndead_when = [\"gone\"]"),
        ("dead_when = [\"free\"]", "held_while = [\"free\"]"),
        ("dead_when = [\"free\"]", "dead_when = [\"free\"]\nafter = \"34s\""),
        ("key = \"member\"\nkey_member = \"/orderId\"", "key = \"header\""),
        ("path = \"/orders/{shop}\"\nmethods = [\"POST\"]", "path = \"/orders/{shop}\""),
        ("path = \"/orders/{shop}\"", "path = \"/orders/{shop}/*\""),
    ];
    let shown: Vec<String> = mistakes
        .iter()
        .map(|(right, wrong)| {
            assert!(GUARDED.contains(right), "{right}");
            let text = GUARDED.replacen(right, wrong, 1);
            let found = match read(&text) {
                Ok(_) => "is accepted".to_owned(),
                Err(refused) => format!("line {}: {}", refused.line, refused.message.trim()),
            };
            format!("{} -> {}\n  {found}", right.replace('\n', " ; "), wrong.replace('\n', " ; "))
        })
        .chain(["[defaults.guard]\nname = \"a\"\nvalues = [\"/a\"]", "preset = \"etherfuse\"\n[[route]]\npath = \"/ramp/quote\"\nkey_member = \"/quoteId\"\nreply = \"omitted\"\nmethods = [\"POST\"]"].map(|text| {
            let refused = read(text).expect_err("a mistake");
            format!("{}\n  line {}: {}", text.replace('\n', " ; "), refused.line, refused.message.trim())
        }))
        .collect();
    assert!(!shown.iter().any(|line| line.ends_with("is accepted")), "{}", shown.join("\n"));
    expect![[r#"
        name = "pending" -> 
          line 8: missing field `name`
        name = "pending" -> name = "Pending order"
          line 8: a guard's `name` has 1 to 64 lower-case letters, digits and hyphens, such as "pending-order"; found "Pending order"
        name = "pending" -> name = "pending" ; overrides = true
          line 10: unknown field `overrides`, expected one of `name`, `values`, `when`, `hold_for`, `override`
        values = ["/account",  -> values = ["account", 
          line 10: expected a JSON Pointer (RFC 6901) such as "/orderId", found "account"
        values = ["/account",  -> values = [1, 
          line 10: invalid type: integer `1`, expected a JSON Pointer such as "/accountId", or a table with path, key and member
        values = ["/account",  -> values = [{ path = "/quotes", member = "/a" }, 
          line 10: a value of a kept reply needs both `path`, such as "/quotes", and `key`, a JSON Pointer into the content; `absent` goes with them
        values = ["/account",  -> values = [{ member = "/a", is = ["b"] }, 
          line 10: `is` belongs to a condition in `when`, not to a value
        values = ["/account",  -> values = [{ key = "/a" }, 
          line 10: missing field `member`
        member = "/type", is = ["onramp"] -> member = "/type"
          line 11: a condition needs `is`, a list of 1 to 16 texts such as ["onramp"]
        member = "/type", is = ["onramp"] -> member = "/type", is = []
          line 11: a condition needs `is`, a list of 1 to 16 texts such as ["onramp"]
        member = "/type", is = ["onramp"] -> member = "/type", is = [" "]
          line 11: a condition needs `is`, a list of 1 to 16 texts such as ["onramp"]
        hold_for = "30d" -> hold_for = "34s"
          line 8: `hold_for` must be at least `execution_max` + `grace`, or a guard would be free while its owner runs
        key_presence = "required" -> 
          line 8: a guarded route needs `key_presence = "required"`: a request without a key would pass unguarded
        path = "/quotes", key -> path = "/quote", key
          line 8: the kept reply of "/quote" cannot be read: no route of this policy covers that path
        path = "/quotes", key -> path = "/{any}", key
          line 8: the kept reply of "/{any}" cannot be read: its path must have no variables and no *
        path = "/quotes", key -> path = "/*", key
          line 8: the kept reply of "/*" cannot be read: its path must have no variables and no *
        path = "/quotes", key -> path = "/slots/1", key
          line 8: the kept reply of "/slots/1" cannot be read: the first route that covers that path must have one method, and `key = "member"`
        path = "/quotes", key -> path = "/orders/1", key
          line 8: the kept reply of "/orders/1" cannot be read: that is the guarded route itself
        reply = "kept" -> reply = "omitted"
          line 8: the kept reply of "/quotes" cannot be read: that route keeps no replies (`reply = "omitted"`)
        path = "/quotes" ; methods = ["POST"] -> path = "/quotes" ; methods = ["POST", "PUT"]
          line 8: the kept reply of "/quotes" cannot be read: the first route that covers that path must have one method, and `key = "member"`
        path = "/shops/{shop}/orders/{key}" -> path = "/shops/{shop}/orders"
          line 13: a release's `path` must have {shop} and {key}, each once, and neither it nor the route's may end with *; found "/shops/{shop}/orders"
        path = "/shops/{shop}/orders/{key}" -> path = "/orders/{key}"
          line 13: a release's `path` must have {shop} and {key}, each once, and neither it nor the route's may end with *; found "/orders/{key}"
        path = "/shops/{shop}/orders/{key}" -> path = "/shops/{shop}/orders/{key}/{key}"
          line 13: a release's `path` must have {shop} and {key}, each once, and neither it nor the route's may end with *; found "/shops/{shop}/orders/{key}/{key}"
        path = "/shops/{shop}/orders/{key}" -> path = "/shops/{shop}/orders/{key}/*"
          line 13: a release's `path` must have {shop} and {key}, each once, and neither it nor the route's may end with *; found "/shops/{shop}/orders/{key}/*"
        path = "/shops/{shop}/orders/{key}" -> path = "/shops/{shop}/orders/{key}" ; methods = ["HEAD"]
          line 13: a release's `methods` must name at least one, and not HEAD, whose response has no content
        path = "/shops/{shop}/orders/{key}" -> path = "/shops/{shop}/orders/{key}" ; methods = []
          line 13: a release's `methods` must name at least one, and not HEAD, whose response has no content
        path = "/slots/{id}/state" -> path = "/slots/{slot}/state"
          line 29: a release's `path` must have {id}, each once, and neither it nor the route's may end with *; found "/slots/{slot}/state"
        held_while = ["created"] -> 
          line 13: a release needs either `held_while` (of a guard) or `dead_when` (of a slot)
        held_while = ["created"] -> held_while = []
          line 13: a release's list has 1 to 16 texts, such as ["created"]
        held_while = ["created"] -> dead_when = ["created"]
          line 13: `dead_when` belongs to a route with `key = "operation"`
        held_while = ["created"] -> held_while = ["created"] ; dead_when = ["gone"]
          line 13: a release needs either `held_while` (of a guard) or `dead_when` (of a slot)
        dead_when = ["free"] -> held_while = ["free"]
          line 29: `held_while` belongs to a route with a guard
        dead_when = ["free"] -> dead_when = ["free"] ; after = "34s"
          line 29: `after` must be at least `execution_max` + `grace`, or a value could count as dead while it is still sent
        key = "member" ; key_member = "/orderId" -> key = "header"
          line 12: a release needs `key = "member"` or "operation": its path must name the record
        path = "/orders/{shop}" ; methods = ["POST"] -> path = "/orders/{shop}"
          line 12: a route with a release must have one method: a release names one record
        path = "/orders/{shop}" -> path = "/orders/{shop}/*"
          line 13: a release's `path` must have {shop} and {key}, each once, and neither it nor the route's may end with *; found "/shops/{shop}/orders/{key}"
        [defaults.guard] ; name = "a" ; values = ["/a"]
          line 1: `guard` and `release` belong to a [[route]], not to [defaults]
        preset = "etherfuse" ; [[route]] ; path = "/ramp/quote" ; key_member = "/quoteId" ; reply = "omitted" ; methods = ["POST"]
          line 1: the route /ramp/order: the kept reply of "/ramp/quote" cannot be read: that route keeps no replies (`reply = "omitted"`)"#]].assert_eq(&shown.join("\n"));
}

/// What the guide shows can be used.
#[test]
fn the_guide_to_guards_is_right() {
    let guide = include_str!("../../../../docs/guide/guards.md");
    let examples: Vec<&str> =
        guide.split("```toml").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    for example in &examples {
        let policy = read(example).unwrap_or_else(|refused| panic!("line {}: {}", refused.line, refused.message));
        assert!(!policy.routes()[0].releases.is_empty());
    }
    assert_eq!(examples.len(), 2);
}

#[test]
fn the_examples_of_ways_out_of_unknown_are_right() {
    let rule = |text: &str| {
        let policy = read(text).unwrap_or_else(|refused| panic!("line {}: {}", refused.line, refused.message));
        policy.routes()[0].probe.clone()
    };
    assert!(rule(include_str!("../../../../docs/guide/examples/probe.toml")).is_some());
    assert!(rule(include_str!("../../../../docs/guide/examples/forward-key.toml")).is_none());
    let guide = include_str!("../../../../docs/guide/unknown.md");
    for example in ["examples/probe.toml", "examples/forward-key.toml"] {
        assert!(guide.contains(example), "the guide shows {example}");
    }
}
