//! The service and the rest of the process: descriptors, leases, threads, and its end.

mod common;

use common::{HUGE, PAGE, Served, Simple, TempFile, c_string, page, service};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use udax_linux::{
    AccessMode, FileHandle, Handler, LeaseReason, RunState, Service, file_info, probe,
};

fn descriptors() -> Vec<String> {
    let directory = std::fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let mut found: Vec<String> = directory
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            Some(format!("{} -> {}", path.display(), target.display()))
        })
        .filter(|line| !line.contains("/fd") || !line.contains("/proc/"))
        .collect();
    found.sort();
    found
}

#[test]
fn the_program_sees_no_descriptor_of_ours() {
    let file = TempFile::sparse(2 * HUGE);
    let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
    assert_eq!(served.byte(0), 0);
    let all = descriptors();
    for word in ["userfaultfd", "pagemap", "eventfd", "pidfd", "/mem"] {
        assert!(all.iter().all(|line| !line.contains(word)), "{word} in {all:#?}");
    }
}

#[test]
fn a_descriptor_that_the_program_closes_is_closed() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let (mut reader, writer) = UnixStream::pair().expect("there are sockets");
    if service().is_none() {
        return;
    }
    // This one's table was copied while both ends were open.
    let _later = Service::start(Arc::new(Simple::default()) as Arc<dyn Handler>).expect("started");
    drop(writer);
    reader.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    assert_eq!(reader.read(&mut [0]).expect("the other end is closed"), 0);
}

#[test]
fn a_file_that_the_program_closes_is_still_served() {
    let file = TempFile::sparse(2 * HUGE);
    let Some(served) = Served::shared(&file, 2 * HUGE) else { return };
    let again = std::fs::File::open(&file.path).expect("it is there");
    let handle = FileHandle::adopt(served.service, again.as_raw_fd()).expect("it can be shared");
    drop(again);
    assert_eq!(handle.size(), Ok(2 * HUGE as u64));
    assert_eq!(handle.info().access, AccessMode::ReadOnly);
}

#[test]
fn looking_for_holes_leaves_the_programs_position_alone() {
    use std::io::{Seek, SeekFrom};
    let file = TempFile::sparse(8 * HUGE);
    let Some((service, _)) = service() else { return };
    file.file.write_all_at(b"data", 3 * HUGE as u64).expect("it can be written");
    let mut position = &file.file;
    position.seek(SeekFrom::Start(77)).expect("it can be sought");
    let handle = FileHandle::adopt(service, file.fd()).expect("it can be shared");
    assert!(handle.can_probe());
    assert_eq!(handle.seek_data(0), Ok(Some(3 * HUGE as u64)));
    assert_eq!(handle.seek_hole(0), Ok(Some(0)));
    let hole = handle.seek_hole(3 * HUGE as u64).expect("it can be sought").expect("there is one");
    assert!(hole > 3 * HUGE as u64 && hole < 8 * HUGE as u64);
    assert_eq!(handle.seek_data(5 * HUGE as u64), Ok(None));
    assert_eq!(handle.seek_hole(8 * HUGE as u64), Ok(None));
    assert_eq!(position.stream_position().expect("it has one"), 77);
    handle.punch(3 * HUGE as u64, HUGE as u64).expect("it can be punched");
    assert_eq!(handle.seek_data(0), Ok(None));
    handle.set_size(HUGE as u64).expect("it can be cut");
    assert_eq!(file_info(file.fd()).expect("it is open").size_bytes, HUGE as u64);
}

#[test]
fn a_lease_is_refused_while_others_have_the_file_open() {
    let file = TempFile::sparse(HUGE);
    let Some((service, _)) = service() else { return };
    let other = std::fs::File::open(&file.path).expect("it is there");
    let handle = FileHandle::adopt(service, file.fd()).expect("it can be shared");
    let refused = handle.take_lease().expect_err("it is open twice");
    assert_eq!(refused.reason, LeaseReason::OthersHaveItOpen);
    drop(other);
    let lease = handle.take_lease().expect("it is open once, probing aside");
    assert!(!lease.is_breaking());
    lease.release();
    std::fs::File::open(&file.path).expect("nobody holds it back");
}

/// Another process opens the file: it must find what was stored here, and go on soon.
#[test]
fn another_process_that_opens_the_file_finds_the_plain_mapping() {
    for directory in ["/dev/shm", "/var/tmp"] {
        let file = TempFile::new(directory, 4 * HUGE as u64);
        let Some(served) = Served::shared(&file, 4 * HUGE) else { return };
        let lease = served.space.file().take_lease().expect("it is open once");
        let id = lease.id();
        let ours = Some(Arc::clone(&served.space));
        served.handler.leases.lock().expect("no test panics with it").push((lease, ours));
        assert_eq!(served.byte(HUGE), 0);
        served.mapped.store(PAGE, b"ours");
        assert_eq!(served.space.state_of(page(1024)), RunState::Zero);
        let path = file.path.display();
        let script = format!(
            "exec 2>/dev/null
             printf theirs | dd of={path} bs=1 seek={} conv=notrunc
             dd if={path} bs=1 skip={PAGE} count=4",
            2 * HUGE
        );
        let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
        assert_eq!(output.stdout, b"ours", "what was stored here is in the file");
        assert_eq!(served.space.state_of(page(1024)), RunState::Plain);
        let mut found = [0; 6];
        served.mapped.load(2 * HUGE, &mut found);
        assert_eq!(&found, b"theirs");
        let broken = served.handler.broken.lock().expect("no test panics with it");
        assert!(broken.contains(&id));
    }
}

#[test]
fn a_read_lease_is_broken_by_a_writer_only() {
    let file = TempFile::sparse(HUGE);
    let Some((service, handler)) = service() else { return };
    let path = file.path.clone();
    let reader = std::fs::File::open(&path).expect("it is there");
    let handle = FileHandle::adopt(service, reader.as_raw_fd()).expect("it can be shared");
    let refused = handle.take_lease().expect_err("a writer has it open");
    assert_eq!(refused.reason, LeaseReason::OthersHaveItOpen);
    let copy = path.with_extension("copy");
    std::fs::copy(&path, &copy).expect("there is room");
    let reader = std::fs::File::open(&copy).expect("it is there");
    let handle = FileHandle::adopt(service, reader.as_raw_fd()).expect("it can be shared");
    let lease = handle.take_lease().expect("nobody can write it");
    let id = lease.id();
    handler.leases.lock().expect("no test panics with it").push((lease, None));
    drop(std::fs::File::open(&copy).expect("a reader is not held back"));
    assert!(!handler.broken.lock().expect("no test panics with it").contains(&id));
    let writer = std::fs::File::options().write(true).open(&copy).expect("it is let in");
    drop(writer);
    let mut broken = handler.broken.lock().expect("no test panics with it");
    let patience = Duration::from_secs(20);
    while !broken.contains(&id) {
        let (guard, waited) =
            handler.lease_change.wait_timeout(broken, patience).expect("no test panics with it");
        assert!(!waited.timed_out(), "nobody was told");
        broken = guard;
    }
    std::fs::remove_file(&copy).expect("it is there");
}

#[test]
fn the_machine_says_what_it_can_do() {
    let found = probe();
    assert!(!found.kernel_release.is_empty());
    assert_eq!(found.engine().is_ok(), service().is_some(), "{found:?}");
    let all = descriptors();
    assert!(all.iter().all(|line| !line.contains("userfaultfd")), "{all:#?}");
}

#[test]
fn the_threads_are_named_and_work_does_not_run_on_the_callers() {
    let Some((service, _)) = service() else { return };
    assert!(!Service::on_service_thread());
    let (name, on_service) = service.with_descriptors(|| {
        (std::thread::current().name().map(str::to_owned), Service::on_service_thread())
    });
    assert_eq!((name.as_deref(), on_service), (Some("udax-call"), true));
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .expect("proc is mounted")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect();
    for name in ["udax-fault", "udax-lease", "udax-map", "udax-call"] {
        assert!(names.iter().any(|found| found.trim() == name), "{name} in {names:?}");
    }
}

/// The body of the next test's child: a fault thread that fails, and a thread that waits for it.
#[test]
fn child_with_a_failing_fault_thread() {
    if std::env::var_os("UDAX_TEST_FAIL").is_none() {
        return;
    }
    let file = TempFile::sparse(HUGE);
    let path = c_string(&file.path);
    std::fs::remove_file(&file.path).expect("it is there");
    assert!(!path.is_empty());
    let Some(served) = Served::shared(&file, HUGE) else { return };
    assert_eq!(served.byte(0), 0);
    unreachable!("the fault was served by a thread that has failed");
}

#[test]
fn a_failing_fault_thread_ends_the_process_with_a_message() {
    if service().is_none() || std::env::var_os("UDAX_TEST_FAIL").is_some() {
        return;
    }
    let output = Command::new("/proc/self/exe")
        .args(["--exact", "child_with_a_failing_fault_thread", "--nocapture"])
        .env("UDAX_TEST_FAIL", "uffd-read")
        .output()
        .expect("this program can be started");
    use std::os::unix::process::ExitStatusExt;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(6), "{errors}");
    assert!(errors.contains("udax: reading the userfaultfd failed"), "{errors}");
}

#[test]
fn a_second_service_does_not_disturb_the_first() {
    let Some((first, _)) = service() else { return };
    let second = Service::start(Arc::new(Simple::default()) as Arc<dyn Handler>).expect("started");
    let file = TempFile::sparse(HUGE);
    let in_first = FileHandle::adopt(first, file.fd()).expect("it can be shared");
    let in_second = FileHandle::adopt(&second, file.fd()).expect("it can be shared");
    assert_eq!(in_first.size(), in_second.size());
}
