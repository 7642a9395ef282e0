//! System calls about memory, through the preloaded library and beside it: with addresses, lengths and vectors of all kinds, also such that end behind the
//! last address. What they answer, and what memory and files hold then, must be the same.
#![no_main]

#[path = "calls/side.rs"]
mod side;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use side::{Side, kernels};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;
/// What the calls are about.
const ARENA: usize = 4 * UNIT;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Unit(u8),
    Page(u16),
    Byte(u32),
}

impl Place {
    fn offset(self) -> usize {
        let at = match self {
            Self::Unit(unit) => usize::from(unit) * UNIT,
            Self::Page(page) => usize::from(page) * PAGE,
            Self::Byte(byte) => byte as usize,
        };
        at % ARENA
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    /// Up to the end of the arena.
    Rest,
    Units(u8),
    Pages(u16),
    Bytes(u32),
    /// So many bytes less than there are addresses: the end is not behind the beginning.
    Wraps(u16),
    /// More than there is.
    Huge(u16),
}

impl Length {
    /// For calls that would change what is not in the arena, if there was an end.
    fn that_wraps(self) -> Self {
        if let Self::Huge(less) = self { Self::Wraps(less) } else { self }
    }

    fn from(self, place: usize) -> usize {
        let rest = ARENA - place;
        match self {
            Self::Rest => rest,
            Self::Units(units) => (usize::from(units % 5) * UNIT).min(rest),
            Self::Pages(pages) => (usize::from(pages) * PAGE).min(rest),
            Self::Bytes(bytes) => (bytes as usize).min(rest),
            Self::Wraps(less) => usize::MAX - usize::from(less),
            Self::Huge(more) => (1 << 62) + usize::from(more),
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Offset {
    In(Place),
    Negative(u16),
    Last(u16),
}

impl Offset {
    fn number(self) -> i64 {
        match self {
            Self::In(place) => place.offset() as i64,
            Self::Negative(less) => -1 - i64::from(less),
            Self::Last(less) => (i64::MAX - i64::from(less) * 512) & !511,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Part {
    place: Place,
    length: Length,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Map {
        place: Place,
        length: Length,
        prot: u8,
        kind: u8,
        file: bool,
        offset: Offset,
    },
    Anywhere {
        length: Length,
        prot: u8,
        private: bool,
        file: bool,
        offset: Offset,
    },
    Unmap {
        place: Place,
        length: Length,
    },
    Protect {
        place: Place,
        length: Length,
        prot: u8,
    },
    Advise {
        place: Place,
        length: Length,
        advice: u8,
    },
    Sync {
        place: Place,
        length: Length,
        flags: u8,
    },
    Remap {
        old: Place,
        old_length: Length,
        new: Place,
        new_length: Length,
        flags: u8,
    },
    Load {
        place: Place,
    },
    Store {
        place: Place,
        value: u8,
    },
    /// Between the file and the arena.
    Transfer {
        write: bool,
        part: Part,
        offset: Offset,
    },
    /// The same, and the vector lies in the arena as well.
    Vector {
        write: bool,
        parts: [Part; 3],
        count: i8,
        at: Place,
        offset: Offset,
    },
    /// Of a message that is sent, and then received elsewhere.
    Message {
        from: [Part; 2],
        into: [Part; 2],
        count: u8,
        control: Option<Part>,
        at: Place,
    },
    Resize {
        pages: u16,
    },
    Punch {
        place: Place,
        length: Length,
    },
}

/// All would be well, too, if nothing were served.
fn check_that_files_are_served() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let _side = Side::new(libc::syscall);
        assert_eq!(udax_preload::fuzzing::served_files(), 1, "faults have to be served here");
    });
}

fuzz_target!(|ops: Vec<Op>| {
    check_that_files_are_served();
    let (ours, kernel) = (Side::new(libc::syscall), Side::new(kernels()));
    for op in ops.iter().take(32) {
        assert_eq!(ours.do_one(op), kernel.do_one(op), "{op:?}");
    }
    let (ours, kernel) = (ours.contents(), kernel.contents());
    let page = |found: &[Result<u8, i32>], other: &[Result<u8, i32>]| {
        found.iter().zip(other).position(|(one, two)| one != two)
    };
    assert_eq!(page(&ours.0, &kernel.0), None, "memory");
    assert!(
        ours.1.len() == kernel.1.len(),
        "the file is {} bytes long, not {}",
        ours.1.len(),
        kernel.1.len()
    );
    assert_eq!(
        ours.1.iter().zip(&kernel.1).position(|(one, two)| one != two),
        None,
        "the file's contents"
    );
});
