//! udax beside memmap2, by whose interface it is used: `cargo bench -p udax-bench --bench peers`. In /dev/shm, or where `UDAX_BENCH_DIR` says.
#![expect(unsafe_code, reason = "both make mappings by unsafe functions")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::fs::File;
use std::hint::black_box;

const PAGE: usize = 4096;
const LENGTH: usize = 256 << 20;

fn sparse() -> File {
    let dir = std::env::var_os("UDAX_BENCH_DIR").unwrap_or_else(|| "/dev/shm".into());
    let file = tempfile::tempfile_in(dir).expect("a file");
    file.set_len(LENGTH as u64).expect("a length");
    file
}

fn read_pages(map: &[u8]) -> u64 {
    map.iter().step_by(PAGE).map(|&byte| u64::from(byte)).sum()
}

fn write_pages(map: &mut [u8], step: usize) {
    map.iter_mut().step_by(step).for_each(|byte| *byte = 1);
}

/// Each round on a file of its own, which is mapped, used and unmapped.
macro_rules! bench {
    ($group:ident, $name:literal, $options:ty, $file:ident => $map:ident, $work:expr) => {
        $group.bench_function($name, |b| {
            b.iter_batched(
                sparse,
                |$file| {
                    // SAFETY: nobody else has the file.
                    #[allow(unused_mut)]
                    let mut $map = unsafe { <$options>::new().map_mut(&$file) }.expect("mapped");
                    black_box($work);
                },
                BatchSize::PerIteration,
            );
        });
    };
}

fn peers(c: &mut Criterion) {
    let mut group = c.benchmark_group("read every page of a hole of 256 MiB");
    group.sample_size(10).throughput(Throughput::Elements((LENGTH / PAGE) as u64));
    bench!(group, "memmap2", memmap2::MmapOptions, file => map, read_pages(&map));
    bench!(group, "udax", udax::MmapOptions, file => map, read_pages(&map));
    group.finish();
    let mut group = c.benchmark_group("store to every page of a hole of 256 MiB");
    group.sample_size(10).throughput(Throughput::Elements((LENGTH / PAGE) as u64));
    bench!(group, "memmap2", memmap2::MmapOptions, file => map, write_pages(&mut map, PAGE));
    bench!(group, "udax", udax::MmapOptions, file => map, write_pages(&mut map, PAGE));
    group.finish();
    let mut group = c.benchmark_group("store to every 16th page of a hole of 256 MiB");
    group.sample_size(10).throughput(Throughput::Elements((LENGTH / PAGE / 16) as u64));
    bench!(group, "memmap2", memmap2::MmapOptions, file => map, write_pages(&mut map, 16 * PAGE));
    bench!(group, "udax", udax::MmapOptions, file => map, write_pages(&mut map, 16 * PAGE));
    group.finish();
}

criterion_group!(benches, peers);
criterion_main!(benches);
