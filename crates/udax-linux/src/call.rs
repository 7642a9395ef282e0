//! Handing work to another thread and waiting for it.

use crate::platform::{lock, wait, wait_for};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Work for the thread that empties a [`Mailbox`].
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs for one thread, first come, first served.
pub(crate) struct Mailbox {
    jobs: Mutex<Jobs>,
    arrived: Condvar,
}

struct Jobs {
    now: VecDeque<Job>,
    /// Those for which it is too early, in no order.
    later: Vec<(Instant, Job)>,
}

impl Mailbox {
    pub(crate) const fn new() -> Self {
        let jobs = Jobs { now: VecDeque::new(), later: Vec::new() };
        Self { jobs: Mutex::new(jobs), arrived: Condvar::new() }
    }

    /// Leaves a job, and does not wait for it.
    pub(crate) fn post(&self, job: Job) {
        lock(&self.jobs).now.push_back(job);
        self.arrived.notify_one();
    }

    /// Leaves a job that is to be begun after `delay`.
    pub(crate) fn post_later(&self, delay: Duration, job: Job) {
        lock(&self.jobs).later.push((Instant::now() + delay, job));
        // Whoever sleeps may have to sleep for less.
        self.arrived.notify_one();
    }

    /// Waits for a job and takes it; no longer than `patience`, if that is given.
    pub(crate) fn take(&self, patience: Option<Duration>) -> Option<Job> {
        let end = patience.map(|patience| Instant::now() + patience);
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.now.pop_front() {
                return Some(job);
            }
            let now = Instant::now();
            if let Some(due) = jobs.later.iter().position(|&(due, _)| due <= now) {
                return Some(jobs.later.swap_remove(due).1);
            }
            if end.is_some_and(|end| end <= now) {
                return None;
            }
            let next = jobs.later.iter().map(|&(due, _)| due).chain(end).min();
            jobs = match next {
                Some(due) => wait_for(&self.arrived, jobs, due - now),
                None => wait(&self.arrived, jobs),
            };
        }
    }

    /// Has `work` done by the thread of this mailbox, and waits for its answer.
    ///
    /// That thread ends the process if `work` panics, so this always returns with an answer or not at all.
    pub(crate) fn call<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let mut answer = None;
        let done = Arc::new(Done::default());
        {
            let done = Arc::clone(&done);
            let slot = &mut answer;
            let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
                *slot = Some(work());
                done.say();
            });
            // SAFETY: this only extends the lifetime of what the job borrows. Those borrows end before `wait` below returns:
            // the job uses the slot before it says that it is done, and no more after. It runs exactly once, since the
            // mailbox's thread never drops a job, and it ends the process instead of unwinding out of one.
            let job: Job = unsafe {
                std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Box<dyn FnOnce() + Send>>(job)
            };
            self.post(job);
        }
        done.wait();
        answer.expect("the job has stored its answer before it said so")
    }
}

/// Said once, waited for by one.
#[derive(Default)]
pub(crate) struct Done {
    said: Mutex<bool>,
    change: Condvar,
}

impl Done {
    pub(crate) fn say(&self) {
        *lock(&self.said) = true;
        self.change.notify_one();
    }

    pub(crate) fn wait(&self) {
        let mut said = lock(&self.said);
        while !*said {
            said = wait(&self.change, said);
        }
    }
}
