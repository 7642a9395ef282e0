//! Scripts that nobody recorded: operations and places that the recorded ones lack. Every operation is known, and bytes are the same
//! whatever kernel and file system is played.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use udax_conformance::flavour::{Flavour, FsKind, Kernel};
use udax_conformance::folder::play_alone;
use udax_conformance::recording::Recording;

fn scripts() -> Vec<PathBuf> {
    let mut scripts = Vec::new();
    for folder in ["sparse", "simulated"] {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance").join(folder);
        let found = fs::read_dir(folder).expect("a folder of scripts");
        scripts.extend(found.map(|entry| entry.expect("a file").path()));
    }
    scripts.sort();
    scripts
}

fn on_every_flavour(script: &Path) -> Vec<(Flavour, Recording)> {
    let mut played = Vec::new();
    for kernel in Kernel::ALL {
        for fs in [FsKind::Ext4, FsKind::Xfs] {
            let flavour = Flavour { kernel, fs };
            played.push((flavour, play_alone(script, flavour).expect("the script can be played")));
        }
    }
    played
}

fn bytes(recording: &Recording) -> BTreeMap<u64, String> {
    let told = recording.lines.values().map(|record| {
        let bytes = (&record.val, &record.byte, &record.crc32, &record.hex, record.nonzero);
        (record.i, format!("{} gives {bytes:?}", record.cmd))
    });
    told.collect()
}

#[test]
fn every_operation_of_the_language_can_be_played() {
    assert!(scripts().len() > 3, "there are scripts");
    for script in scripts() {
        for (flavour, recording) in on_every_flavour(&script) {
            for (line, record) in &recording.lines {
                let known = &record.known;
                // No recording here has an answer to it.
                let is_seek = record.cmd.starts_with("seek ");
                let whole = !known.unknown && (is_seek || known.not_compared.is_none());
                assert!(whole, "{} on {flavour}, line {line}: {record:?}", script.display());
            }
        }
    }
}

#[test]
fn bytes_are_the_same_whatever_kernel_and_file_system_is_played() {
    for script in scripts() {
        let played = on_every_flavour(&script);
        let first = bytes(&played[0].1);
        assert!(first.len() > 20, "{}: a whole script", script.display());
        for (flavour, recording) in &played[1..] {
            for (line, told) in bytes(recording) {
                assert_eq!(told, first[&line], "{} on {flavour}, line {line}", script.display());
            }
        }
    }
}

#[test]
fn a_name_is_gone_once_and_its_descriptor_and_mapping_stay() {
    let script = scripts().into_iter().find(|script| script.ends_with("locked-and-filled.txt"));
    for (flavour, recording) in on_every_flavour(&script.expect("the script")) {
        let err = |cmd: &str| -> Vec<Option<String>> {
            let told = recording.lines.values().filter(|record| record.cmd == cmd);
            told.map(|record| record.err.clone()).collect()
        };
        assert_eq!(err("unlink f"), [None, Some("ENOENT".to_owned())], "{flavour}");
        assert_eq!(err("pread f 0 4k"), [None], "{flavour}: the descriptor stays");
    }
}
