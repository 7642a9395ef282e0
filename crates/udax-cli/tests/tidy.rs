//! The rules of the repository that no compiler knows, as a test. Every failure names the file and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines in a source file, without the tests at its end.
const SOURCE_LINES: usize = 500;
/// Lines in a file of integration tests.
const TEST_LINES: usize = 600;

/// Crates that hold no unsafe code at all.
const SAFE_CRATES: [&str; 6] =
    ["udax-core", "udax-sim", "udax-check", "udax-host", "udax-cli", "udax-conformance"];

/// Which crates of the workspace a crate may depend on: the arrows of ARCHITECTURE.md.
const MAY_DEPEND_ON: [(&str, &[&str]); 10] = [
    ("udax-core", &[]),
    ("udax-sim", &["udax-core"]),
    ("udax-conformance", &["udax-core", "udax-sim"]),
    ("udax-check", &["udax-core"]),
    ("udax-linux", &["udax-core"]),
    ("udax-host", &["udax-core"]),
    ("udax", &["udax-core", "udax-linux", "udax-host"]),
    ("udax-preload", &["udax", "udax-linux"]),
    ("udax-bench", &["udax-core", "udax-linux"]),
    ("udax-cli", &["udax", "udax-linux", "udax-host", "udax-core", "udax-bench"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every text file of the repository: its path from the root, and what it holds.
fn files() -> Vec<(String, String)> {
    fn visit(directory: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).expect("a directory of the repository") {
            let path = entry.expect("a directory entry").path();
            let name =
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name == ".git" || name == "target" || name == "Cargo.lock" {
                continue;
            }
            if path.is_dir() {
                visit(&path, root, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let name = path.strip_prefix(root).expect("below the root");
                found.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    visit(&root, &root, &mut found);
    found.sort();
    assert!(found.len() > 20, "the walk through the repository found next to nothing");
    found
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|(name, _)| name.ends_with(".rs"))
}

/// Fails with all complaints at once.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut complaints = Vec::new();
    for (name, text) in rust_files() {
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = own.lines().count();
        let limit = if name.contains("/tests/") { TEST_LINES } else { SOURCE_LINES };
        if lines > limit {
            complaints
                .push(format!("{name}: {lines} lines, more than {limit}: split it by subject"));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not accuse itself.
    let banned = [
        (["TO", "DO"].concat(), "do it, or say in the documentation what is not there"),
        (["FIX", "ME"].concat(), "mend it"),
        (["X", "XX"].concat(), "say what is meant"),
        (["todo", "!("].concat(), "write it"),
        (["unimplemented", "!("].concat(), "write it, or do not offer it"),
        (["dbg", "!("].concat(), "take it out"),
        (
            ["#[", "ignore"].concat(),
            "a test that does not run proves nothing: mend it or remove it",
        ),
        (["thread::", "sleep"].concat(), "wait for the event itself, not for time to pass"),
    ];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        if !(name.ends_with(".rs") || name.ends_with(".c") || name.ends_with(".h")) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for (word, cure) in &banned {
                if line.contains(word.as_str()) && !is_part_of_a_word(line, word) {
                    complaints.push(format!("{name}:{}: {word}: {cure}", number + 1));
                }
            }
        }
    }
    report(&complaints);
}

/// Whether every occurrence of `word` is but a part of a longer one, as in the template of a temporary file's name.
fn is_part_of_a_word(line: &str, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(word).all(|(at, _)| {
        let starts = word.starts_with(char::is_alphanumeric);
        let ends = word.ends_with(char::is_alphanumeric);
        starts && is_letter(line[..at].chars().next_back())
            || ends && is_letter(line[at + word.len()..].chars().next())
    })
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let places = ["/wo", "rk/", " /ro", "ot/", " /ho", "me/", "/tmp/br", "ief"];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for (number, line) in text.lines().enumerate() {
            for place in places.chunks(2).map(<[&str]>::concat) {
                if line.contains(place.as_str()) {
                    complaints.push(format!(
                        "{name}:{}: {place}: nobody else has this path, name it from the root of the repository",
                        number + 1
                    ));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn unsafe_code_has_its_places() {
    let mut complaints = Vec::new();
    for name in SAFE_CRATES {
        let source = root().join("crates").join(name).join("src");
        let top = ["lib.rs", "main.rs"].map(|file| source.join(file));
        let text =
            top.iter().find_map(|file| fs::read_to_string(file).ok()).expect("a crate has a root");
        if !text.contains("#![forbid(unsafe_code)]") {
            complaints
                .push(format!("crates/{name}: put #![forbid(unsafe_code)] at its root again"));
        }
    }
    report(&complaints);
}

#[test]
fn crate_roots_hold_declarations_only() {
    let mut complaints = Vec::new();
    for (name, text) in rust_files() {
        if !name.ends_with("/src/lib.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let words = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            if ["fn ", "impl ", "unsafe fn ", "const fn ", "impl<"]
                .iter()
                .any(|start| words.starts_with(start))
            {
                complaints
                    .push(format!("{name}:{}: move this into a module of its own", number + 1));
            }
        }
    }
    report(&complaints);
}

#[test]
fn dependencies_point_downwards() {
    let mut complaints = Vec::new();
    for (name, allowed) in MAY_DEPEND_ON {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("every crate has a manifest");
        let own = text.split("[dependencies]").nth(1).unwrap_or_default();
        let own = own.split("\n[").next().unwrap_or_default();
        for line in own.lines() {
            let dependency = line.split([' ', '.', '=']).next().unwrap_or_default();
            if dependency.starts_with("udax") && !allowed.contains(&dependency) {
                complaints.push(format!(
                    "crates/{name} depends on {dependency}: turn it round, or move what is shared down"
                ));
            }
        }
    }
    report(&complaints);
}

#[test]
fn the_engine_knows_no_operating_system() {
    let mut complaints = Vec::new();
    for (name, text) in rust_files() {
        if name.starts_with("crates/udax-core/src/") && !name.ends_with("tests.rs") {
            let own = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in own.lines().enumerate() {
                if line.trim_start().starts_with("use std::") {
                    complaints.push(format!(
                        "{name}:{}: use core or alloc, or ask for it by a seam",
                        number + 1
                    ));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn what_the_readme_points_at_exists() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        if !name.ends_with(".md") {
            continue;
        }
        let directory = Path::new(&name).parent().unwrap_or(Path::new("")).to_owned();
        for piece in text.split("](").skip(1) {
            let target = piece.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !root().join(&directory).join(target).exists() {
                complaints.push(format!("{name}: the link to {target} leads nowhere"));
            }
        }
    }
    report(&complaints);
}

/// Whether some source has the function `name`, or names it in a list that a macro makes tests of; a test of `tests/semantics` is one by its text.
fn has_function(sources: &[(String, String)], under: &str, name: &str) -> bool {
    let (with_bracket, listed) = (format!("fn {name}("), format!("    {name}: \""));
    sources.iter().any(|(file, text)| {
        file.starts_with(under)
            && (text.contains(&with_bracket)
                || text.contains(&listed)
                || file.ends_with(".c") && text.contains(name))
    })
}

#[test]
fn each_break_names_a_test_that_exists() {
    let sources = files();
    let mut complaints = Vec::new();
    let mut named = 0;
    for (file, text) in &sources {
        if !(file.starts_with("tests/breaks/") && file.ends_with(".toml")) {
            continue;
        }
        // `package::target::path::of::test` between quotes; what has a blank in it is a shell command, or a text to exchange.
        let tests = text.split('"').filter(|piece| {
            piece.starts_with("udax")
                && piece.contains("::")
                && !piece.contains(char::is_whitespace)
        });
        for test in tests {
            named += 1;
            let parts: Vec<&str> = test.splitn(3, "::").collect();
            let [package, target, path] = parts[..] else {
                complaints.push(format!("{file}: {test} is not package::target::test"));
                continue;
            };
            let place = match target {
                "lib" => format!("crates/{package}/src/"),
                _ => format!("crates/{package}/tests/{target}"),
            };
            let name = path.rsplit("::").next().unwrap_or(path);
            if !has_function(&sources, &place, name) {
                complaints.push(format!("{file}: there is no test {test}: name the one it became"));
            }
        }
    }
    assert!(named > 200, "the breaks were not read");
    report(&complaints);
}

/// The number of a test or break that is named `pitfall_NNN_...`, without leading zeros; `14b` and `43b` have a letter.
fn pitfall_of(name: &str) -> Option<&str> {
    let (number, _) = name.strip_prefix("pitfall_")?.split_once('_')?;
    number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.trim_start_matches('0'))
}

/// What stands between back quotes in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_pitfall_has_its_row_its_test_and_its_break() {
    let sources = files();
    let text_of = |wanted: &str| {
        sources.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.as_str())
    };
    let table = text_of("docs/pitfalls.md").expect("the table of pitfalls");
    let breaks: Vec<&str> = sources
        .iter()
        .filter(|(file, _)| file.starts_with("tests/breaks/"))
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .collect();
    let mut complaints = Vec::new();
    let mut numbers = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, test, planted, _] = cells[..] else {
            complaints.push(format!("docs/pitfalls.md: not four cells: {line}"));
            continue;
        };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        numbers.push(number);
        let mut say = |what: String| complaints.push(format!("docs/pitfalls.md: {number}: {what}"));
        let gone = test.starts_with("gone by construction");
        let named: Vec<&str> = quoted(test)
            .filter_map(|one| {
                Some(one.rsplit("::").next()?).filter(|one| one.starts_with("pitfall_"))
            })
            .collect();
        if named.is_empty() && !gone {
            say("name its test, or say what makes it gone by construction".into());
        }
        if quoted(planted).next().is_none() && !gone {
            say("name its break".into());
        }
        for one in named {
            if !has_function(&sources, "crates/", one)
                && !has_function(&sources, "tests/semantics/", one)
            {
                say(format!("there is no test {one}"));
            }
        }
        for one in quoted(planted) {
            if !breaks.iter().any(|all| pitfall_of(all) == Some(number) && all.ends_with(one)) {
                say(format!("there is no break {one}"));
            }
        }
        let missing = breaks.iter().filter(|all| pitfall_of(all) == Some(number));
        for one in missing.filter(|all| !quoted(planted).any(|known| all.ends_with(known))) {
            say(format!("the break {one} is not told of"));
        }
    }
    let mut expected: Vec<String> = (1..=94).map(|number: u32| number.to_string()).collect();
    expected.insert(14, "14b".into());
    expected.insert(44, "43b".into());
    assert_eq!(numbers, expected, "docs/pitfalls.md has each pitfall once, in order");
    for (file, text) in &sources {
        for (name, _) in text.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')) {
            if pitfall_of(name).is_some() && !table.contains(&format!("{name}`")) {
                complaints.push(format!("{file}: docs/pitfalls.md does not tell of {name}"));
            }
        }
    }
    report(&complaints);
}
