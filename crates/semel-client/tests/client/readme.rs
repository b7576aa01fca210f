//! What the repository's README shows is what runs.

#[test]
fn the_order_in_the_readme_is_the_example() {
    let readme = include_str!("../../../../README.md");
    let example = include_str!("../../examples/order.rs");
    // Comments are set where the page has room for them.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = readme.split("```rust,no_run").nth(1).and_then(|rest| rest.split("```").next()).expect("it shows Rust");
    let there: Vec<String> = example.lines().map(words).collect();
    for line in shown.lines().map(words).filter(|line| !line.is_empty()) {
        assert!(there.contains(&line), "the example has no line {line:?}");
    }
}
