mod common;
use common::*;
use std::time::Instant;
#[test]
fn bench() {
    const LENGTH: usize = 512 * HUGE;
    let file = TempFile::sparse(LENGTH);
    let Some(served) = Served::shared(&file, LENGTH) else { return };
    let t = Instant::now();
    let mut s = 0u64;
    for at in (0..LENGTH).step_by(PAGE) {
        s += u64::from(served.byte(at));
    }
    println!(
        "read 1GiB hole {:?} {s} windows {:?}",
        t.elapsed(),
        served.service.stats().snapshot()
    );
    let t = Instant::now();
    for u in 0..512 {
        served.mapped.store(u * HUGE, &[1]);
    }
    println!("first store per unit in window: {:?} each", t.elapsed() / 512);
    let file = TempFile::sparse(LENGTH);
    let served = Served::shared(&file, LENGTH).unwrap();
    let t = Instant::now();
    for u in 0..512 {
        served.mapped.store(u * HUGE, &[1]);
    }
    println!("first store per unit in trap: {:?} each", t.elapsed() / 512);
    let file = TempFile::sparse(LENGTH);
    let t = Instant::now();
    let served = Served::shared(&file, LENGTH).unwrap();
    println!("serve a mapping: {:?}", t.elapsed());
    let t = Instant::now();
    for u in 0..128 {
        served.byte(u * 4 * HUGE);
    }
    println!("window of 8 MiB each: {:?}", t.elapsed() / 128);
    let file = TempFile::sparse(LENGTH);
    let served = Served::new(&file, LENGTH, udax_linux::Sharing::Private, READ_WRITE).unwrap();
    for u in 0..128 {
        served.byte(u * 4 * HUGE);
    }
    let t = Instant::now();
    for u in 0..512 {
        served.mapped.store(u * HUGE, &[1]);
    }
    println!("private first store per unit: {:?}", t.elapsed() / 512);
    let t = Instant::now();
    served.space.plain_all();
    println!("private plain all, 512 units with a copy each: {:?}", t.elapsed());
}
