//! Whatever is read as text or as bytes from outside: it is refused or understood, and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    udax_linux::fuzzing::message(data);
    udax_linux::fuzzing::stat(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    udax::fuzzing::maps_line(text);
    let _ = udax_conformance::script::parse(text);
    let _ = udax_conformance::recording::Recording::parse(text);
});
