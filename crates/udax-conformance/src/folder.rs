//! A folder of recordings: which scripts, which kernels and file systems, and playing one against the other.

use crate::compare::{Comparison, compare};
use crate::flavour::Flavour;
use crate::player::play;
use crate::recording::Recording;
use crate::script::parse;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for Unreadable {}

impl Unreadable {
    /// `path` could not be read: `why`.
    #[must_use]
    pub fn new(path: &Path, why: &dyn fmt::Display) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

fn unreadable(path: &Path) -> impl Fn(&dyn fmt::Display) -> Unreadable + '_ {
    move |why| Unreadable::new(path, why)
}

/// One script, and one recording of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The script's name, without `.txt`.
    pub name: String,
    /// What was recorded.
    pub flavour: Flavour,
    /// The script.
    pub script: PathBuf,
    /// The recording.
    pub recording: PathBuf,
}

fn names(folder: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(suffix)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Every script of `scripts/*.txt` with each of its recordings, `recordings/linux-KERNEL/FS/NAME.jsonl`.
///
/// # Errors
/// A folder that cannot be read, a kernel or file system that the rules do not know, or a recording without a script.
pub fn pairs(scripts: &Path, recordings: &Path) -> Result<Vec<Pair>, Unreadable> {
    let known = names(scripts, ".txt").map_err(|error| unreadable(scripts)(&error))?;
    let mut pairs = Vec::new();
    for kernel in names(recordings, "").map_err(|error| unreadable(recordings)(&error))? {
        let folder = recordings.join(&kernel);
        if !kernel.starts_with("linux-") || !folder.is_dir() {
            continue;
        }
        for fs in names(&folder, "").map_err(|error| unreadable(&folder)(&error))? {
            let folder = folder.join(&fs);
            let flavour: Flavour =
                format!("{kernel}/{fs}").parse().map_err(|error| unreadable(&folder)(&error))?;
            for name in names(&folder, ".jsonl").map_err(|error| unreadable(&folder)(&error))? {
                let recording = folder.join(format!("{name}.jsonl"));
                if !known.contains(&name) {
                    return Err(unreadable(&recording)(&"there is no script of this name"));
                }
                let script = scripts.join(format!("{name}.txt"));
                pairs.push(Pair { name, flavour, script, recording });
            }
        }
    }
    pairs.sort();
    Ok(pairs)
}

impl Pair {
    /// Reads both, plays the script, and compares.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub fn play(&self) -> Result<Comparison, Unreadable> {
        let text = read(&self.script)?;
        let script = parse(&text).map_err(|error| unreadable(&self.script)(&error))?;
        let text = read(&self.recording)?;
        let recorded =
            Recording::parse(&text).map_err(|error| unreadable(&self.recording)(&error))?;
        let answers = play(&script, self.flavour, &recorded);
        Ok(compare(&recorded, &answers, self.flavour))
    }
}

/// Plays the script of that file, which nobody recorded: where Linux would choose among places, the simulator does.
///
/// # Errors
/// A file that cannot be read or understood.
pub fn play_alone(path: &Path, flavour: Flavour) -> Result<Recording, Unreadable> {
    let script = parse(&read(path)?).map_err(|error| unreadable(path)(&error))?;
    Ok(play(&script, flavour, &Recording::default()))
}

fn read(path: &Path) -> Result<String, Unreadable> {
    fs::read_to_string(path).map_err(|error| unreadable(path)(&error))
}
