//! Plays a script on the simulator with the engine, and answers line by line as the recordings do.
//!
//! The engine sees what it would see under Linux: the player is its memory manager (VMAs, fork, populating) and its file systems' habits.

mod access;
mod files;
mod io;
mod layout;
mod maps;
mod process;
mod sync;
mod trace;
mod views;

use crate::flavour::Flavour;
use crate::recording::{Known, Record, Recording};
use crate::script::{Line, Op};
use files::File;
use process::ProcessState;
use std::collections::BTreeMap;
use std::sync::Arc;
use trace::Recorder;
use udax_core::{Dax, IoError, IoErrorKind};
use udax_sim::{AccessError, Freed, Machine, Placement, PrivateStores, SimFs, SimMedia, SimWorld};

/// Frames of the device: 1 GiB, as recorded, but for what the file systems keep for themselves.
const DEVICE_FRAMES: u64 = 260_096;

/// How the file system is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DaxMode {
    Always,
    Never,
    /// As the inode's flag says.
    Inode,
}

/// Why an operation came to nothing.
#[derive(Clone, Debug)]
enum Failed {
    /// An errno, by name.
    Errno(&'static str),
    /// A signal, by name, with its code.
    Signal(&'static str, &'static str),
    /// The simulator cannot say.
    NotCompared(&'static str),
    /// The script names a file or a mapping that there is not.
    NoSuchName,
}

type Answer = Result<Record, Failed>;

impl From<AccessError> for Failed {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::BusError => Self::Signal("SIGBUS", "BUS_ADRERR"),
            AccessError::Poisoned => Self::Signal("SIGBUS", "BUS_MCEERR_AR"),
            AccessError::OutOfMemory => Self::Errno("ENOMEM"),
            AccessError::Segmentation => Self::Signal("SIGSEGV", "SEGV_ACCERR"),
        }
    }
}

impl From<IoError> for Failed {
    fn from(error: IoError) -> Self {
        Self::Errno(match error.kind {
            IoErrorKind::NoMemory => "ENOMEM",
            IoErrorKind::NoSpace => "ENOSPC",
            IoErrorKind::Poisoned | IoErrorKind::Io => "EIO",
            IoErrorKind::WouldBlock => "EAGAIN",
            IoErrorKind::Interrupted => "EINTR",
            IoErrorKind::OutOfRange => "EFBIG",
        })
    }
}

fn done() -> Answer {
    Ok(Record { ok: Some(true), ..Record::default() })
}

/// Everything that a script acts on.
struct Player<'h> {
    flavour: Flavour,
    fs: Arc<SimFs>,
    machine: Arc<Machine>,
    dax: Arc<Dax<SimWorld>>,
    recorder: Arc<Recorder>,
    files: BTreeMap<String, File>,
    mode: DaxMode,
    inodes: u64,
    /// The script's process; behind it the forked children.
    processes: Vec<ProcessState>,
    /// What Linux answered to the line at work: where it left a choice to the kernel (an address), that choice is followed.
    hint: Option<&'h Record>,
}

/// Plays `script`. Where Linux chose among places (`auto`, `mremap`), the player chooses as `recorded` says.
#[must_use]
pub fn play(script: &[Line], flavour: Flavour, recorded: &Recording) -> Recording {
    let mut player = Player::new(flavour);
    let mut lines = BTreeMap::new();
    for line in script {
        player.hint = recorded.lines.get(&line.number);
        lines.insert(line.number, player.line(line));
    }
    Recording { lines }
}

impl<'h> Player<'h> {
    fn new(flavour: Flavour) -> Self {
        let fs = SimFs::new(SimMedia::aligned(DEVICE_FRAMES));
        fs.set_placement(match flavour.fs {
            crate::flavour::FsKind::Ext4 => Placement::Congruent,
            crate::flavour::FsKind::Xfs => Placement::Striped,
        });
        fs.set_freed(Freed::AfterCommit);
        let machine = Machine::new(fs.media().clone(), 1);
        machine.set_private_stores(PrivateStores::Machine);
        let recorder = Arc::new(Recorder::default());
        let dax = Dax::new(Some(Arc::clone(&recorder) as Arc<dyn udax_core::Tracer>));
        let processes = vec![ProcessState::new(machine.process())];
        Self {
            flavour,
            fs,
            machine,
            dax,
            recorder,
            files: BTreeMap::new(),
            mode: DaxMode::Always,
            inodes: 11,
            processes,
            hint: None,
        }
    }

    fn line(&mut self, line: &Line) -> Record {
        let served = self.machine.served_count();
        let upgrades = self.recorder.upgrades_under_pmd();
        let answer = self.op(&line.op);
        let mut record = match answer {
            Ok(record) => record,
            Err(failed) => failure(failed),
        };
        record.i = line.number;
        record.cmd.clone_from(&line.text);
        record.minflt = Some(self.machine.served_count() - served);
        record.majflt = Some(0);
        record.known.in_child = self.processes.len() > 1;
        record.known.upgrades_under_pmd = self.recorder.upgrades_under_pmd() - upgrades;
        record.known.unknown = line.op == Op::Unknown;
        record
    }

    fn op(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { file, size, open } => self.create(file, *size, *open),
            Op::Open { file, open } => self.open(file, *open),
            Op::Close { file } => self.close(file),
            Op::Unlink { file } => self.unlink(file),
            Op::DropCaches { what } => self.drop_caches(*what),
            Op::Remount { options } => self.remount(options),
            Op::Chattr { file, change } => self.chattr(file, change),
            Op::Truncate { file, size } => self.truncate(file, *size),
            Op::Falloc { file, mode, place } => self.falloc(file, *mode, *place),
            Op::Pread { file, place } => self.pread(file, *place),
            Op::Pwrite { file, place, byte, dsync } => self.pwrite(file, *place, *byte, *dsync),
            Op::PreadMap { file, place, map, at } => self.pread_map(file, *place, map, *at),
            Op::PwriteMap { file, place, map, at } => self.pwrite_map(file, *place, map, *at),
            Op::Hash { file } => self.hash(file),
            Op::Hexdump { file, place } => self.hexdump(file, *place),
            Op::Pages { file } => self.pages(file),
            Op::Stat { file } => self.stat(file),
            Op::Fiemap { file } => self.fiemap(file),
            Op::Xa { file } => self.xa(file),
            Op::Fsync { file } => self.fsync(file),
            Op::Msync { map, place, how } => self.msync(map, *place, *how),
            Op::Fork => self.fork(),
            Op::EndFork => self.end_fork(),
            Op::TraceStart => self.trace_start(),
            Op::TraceStop => self.trace_stop(),
            Op::TraceDump => self.trace_dump(),
            Op::TraceCount => self.trace_count(),
            Op::TraceClear => self.trace_clear(),
            Op::Label => Ok(Record::default()),
            Op::Seek { .. } => Err(Failed::NotCompared("the form of its answer is not known")),
            Op::MachineOnly => Err(Failed::NotCompared("only a real machine can tell")),
            Op::Unknown => Err(Failed::NotCompared("the operation is unknown")),
            Op::Mmap { .. }
            | Op::Munmap { .. }
            | Op::Mprotect { .. }
            | Op::Mremap { .. }
            | Op::Mlock { .. }
            | Op::Madvise { .. }
            | Op::Read { .. }
            | Op::Write { .. }
            | Op::Touch { .. }
            | Op::Fill { .. }
            | Op::Smaps { .. }
            | Op::Pt { .. }
            | Op::Mincore { .. } => self.map_op(op),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other half of `op`, which lists them")]
    fn map_op(&mut self, op: &Op) -> Answer {
        match op {
            Op::Mmap { map, file, place, prot, flags } => {
                self.mmap(map, file, *place, *prot, *flags)
            }
            Op::Munmap { map, place } => self.munmap(map, *place),
            Op::Mprotect { map, place, prot } => self.mprotect(map, *place, *prot),
            Op::Mremap { map, length, may_move } => self.mremap(map, *length, *may_move),
            Op::Mlock { map, place } => self.mlock(map, *place),
            Op::Madvise { map, place, advice } => self.madvise(map, *place, advice),
            Op::Read { map, page, byte } => self.read(map, *page, *byte),
            Op::Write { map, page, value, byte } => self.write(map, *page, *value, *byte),
            Op::Touch { map, page, count, write, stride, value } => {
                let pages = (0..*count).map(|number| page + number * stride);
                self.touch(map, pages, write.then_some(*value))
            }
            Op::Fill { map, page, count, value } => self.fill(map, *page, *count, *value),
            Op::Smaps { map } => self.smaps(map),
            Op::Pt { map, place } => self.pt(map, *place),
            Op::Mincore { map } => self.mincore(map),
            _ => Err(Failed::NotCompared("no operation on a mapping")),
        }
    }
}

fn failure(failed: Failed) -> Record {
    let mut record = Record { ok: Some(false), ..Record::default() };
    match failed {
        Failed::Errno(name) => record.err = Some(name.to_owned()),
        Failed::Signal(name, code) => {
            record.err = Some(name.to_owned());
            record.code = Some(code.to_owned());
        }
        Failed::NotCompared(why) => {
            record.ok = None;
            record.known = Known { not_compared: Some(why.to_owned()), ..Known::default() };
        }
        Failed::NoSuchName => {
            record.err = Some("no file or mapping of that name".to_owned());
        }
    }
    record
}
