//! Every schedule of a model: a search that runs the real code again and again, and goes on from each state once.
//!
//! Glossary: a *point* is where a thread is about to do what others can tell (take a lock, read a counter, sleep, join); at each of them the search
//! chooses who goes on. The *history* of a thread is a hash of all that it has learned from others: whose writing it found under each lock that it took,
//! and what it read from counters. The code of a thread is a function of what it learns, so all histories together, and what is under the locks, are the
//! *state*. Two schedules that come to the same state can only go on in the same ways, and only the first does. docs/concurrency.md, "How it is checked", has
//! the argument.
//!
//! A lock that was taken and not written under leaves no trace, so that those who only look do not depend on each other. A counter is read without order:
//! its reader may see whatever it stood at since the last value that the reader has been ordered behind, and the search tries each.

use crate::explore::Bound;
use generator::{Generator, Gn};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

/// Points of one execution, beyond which a model is taken to hang.
const POINTS: usize = 20_000;

/// Words of stack of a thread of a model: a failing test prints from it.
const STACK_WORDS: usize = 0x8000;

/// A hash of `parts`, the same in every run.
pub(crate) fn mix(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// What a thread waits for at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Its turn.
    Turn,
    /// A lock that nobody holds.
    Lock(u64),
    /// A wake.
    Wake(u64),
    /// The end of a thread.
    End(usize),
    /// Something written by somebody since so many writes.
    Others(usize),
    /// Nothing: it has ended.
    Nothing,
}

/// For each counter that was written, the earliest of its values that may still be seen.
pub(crate) type Seen = BTreeMap<u64, usize>;

/// What a lock, or a wake, hands from one thread to the next.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Trail {
    /// What is under the lock, or else who has written it.
    content: u64,
    seen: Seen,
}

impl Trail {
    /// That of a new object, with what is in it.
    pub(crate) fn of(content: Option<u64>) -> Self {
        Self { content: content.unwrap_or(0), seen: Seen::new() }
    }
}

/// How a lock is left.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    /// Nothing was written.
    AsItWas,
    /// With a new content, if that is known.
    Written(Option<u64>),
}

#[derive(Debug)]
struct Thread {
    history: u64,
    seen: Seen,
    want: Want,
    /// Objects that it has made.
    made: u64,
}

/// One choice of the execution under way: which of how many.
#[derive(Debug)]
struct Choice {
    taken: usize,
    of: usize,
}

type Body = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Run {
    /// The execution under way, and how far along it is.
    choices: Vec<Choice>,
    depth: usize,
    points: usize,
    /// Whether it has come to a state from which the search went on before.
    is_known: bool,
    preemptions: usize,
    most_preemptions: Option<usize>,
    /// The states, each with the fewest preemptions that it was reached with.
    states: HashMap<u64, usize>,
    threads: Vec<Thread>,
    current: usize,
    /// Threads that have not begun.
    new: Vec<Body>,
    /// What is under all locks together.
    contents: u64,
    held: Vec<u64>,
    woken: Vec<u64>,
    writes: usize,
}

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
}

fn with<R>(act: impl FnOnce(&mut Run) -> R) -> R {
    RUN.with_borrow_mut(act)
}

impl Run {
    fn begin(&mut self) {
        self.depth = 0;
        self.points = 0;
        self.is_known = false;
        self.preemptions = 0;
        self.current = 0;
        self.writes = 0;
        self.contents = 0;
        self.threads.clear();
        self.held.clear();
        self.woken.clear();
    }

    /// Goes back to the last choice that has another way. Whether there is one.
    fn turn_back(&mut self) -> bool {
        while let Some(last) = self.choices.last_mut() {
            last.taken += 1;
            if last.taken < last.of {
                return true;
            }
            self.choices.pop();
        }
        false
    }

    fn add(&mut self, thread: Thread, body: Body) -> usize {
        self.threads.push(thread);
        self.new.push(body);
        self.threads.len() - 1
    }

    fn me(&mut self) -> &mut Thread {
        &mut self.threads[self.current]
    }

    fn can_go_on(&self, thread: &Thread) -> bool {
        match thread.want {
            Want::Turn => true,
            Want::Lock(lock) => !self.held.contains(&lock),
            Want::Wake(sleep) => self.woken.contains(&sleep),
            Want::End(other) => self.threads[other].want == Want::Nothing,
            Want::Others(writes) => self.writes > writes,
            Want::Nothing => false,
        }
    }

    fn choose(&mut self, of: usize) -> usize {
        if of == 1 {
            return 0;
        }
        self.depth += 1;
        if let Some(choice) = self.choices.get(self.depth - 1) {
            assert_eq!(choice.of, of, "the model does not do the same when it is run again");
            return choice.taken;
        }
        if self.is_known {
            return 0;
        }
        self.choices.push(Choice { taken: 0, of });
        0
    }

    /// Whether the execution has come to a state that is new, or was reached with more preemptions before.
    fn note_state(&mut self) {
        if self.is_known || self.depth < self.choices.len() {
            return;
        }
        let waits = |thread: &Thread| (thread.history, self.can_go_on(thread));
        let threads: Vec<_> = self.threads.iter().map(waits).collect();
        // Without a bound it makes no difference who goes on.
        let current = self.most_preemptions.map(|_| self.current);
        let preemptions = self.preemptions;
        let least = self.states.entry(mix((threads, self.contents, current))).or_insert(usize::MAX);
        self.is_known = *least <= preemptions;
        *least = preemptions.min(*least);
    }

    /// Who goes on; `None` if all have ended.
    ///
    /// # Panics
    /// If nobody can.
    fn next(&mut self) -> Option<usize> {
        let can = |&thread: &usize| self.can_go_on(&self.threads[thread]);
        let mut able: Vec<usize> = (0..self.threads.len()).filter(can).collect();
        if able.is_empty() {
            let yields = |&thread: &usize| matches!(self.threads[thread].want, Want::Others(_));
            able = (0..self.threads.len()).filter(yields).collect();
        }
        if able.is_empty() {
            let wants: Vec<Want> = self.threads.iter().map(|thread| thread.want).collect();
            let all_ended = wants.iter().all(|&want| want == Want::Nothing);
            assert!(all_ended, "nobody can go on: the threads want {wants:?}");
            return None;
        }
        self.points += 1;
        assert!(self.points < POINTS, "no end after {POINTS} points");
        let goes_on = able.iter().position(|&thread| thread == self.current);
        if let Some(place) = goes_on {
            able.swap(0, place);
            if self.most_preemptions == Some(self.preemptions) {
                able.truncate(1);
            }
        }
        if able.len() > 1 {
            self.note_state();
        }
        let place = self.choose(able.len());
        self.preemptions += usize::from(place > 0 && goes_on.is_some());
        self.current = able[place];
        Some(self.current)
    }
}

/// Where the calling thread may be made to wait: returns when it has what it wants, and it is its turn. A thread that fails does not wait any more: it
/// has to be unwound.
pub(crate) fn point(want: Want) {
    if std::thread::panicking() {
        return;
    }
    let is_alone = with(|run| {
        let me = run.me();
        // Before a point is another state than behind it, whatever the thread learns there.
        me.history = mix((me.history, "point"));
        me.want = want;
        // What is done before the others begin, and after they have ended, is no choice.
        run.threads.iter().filter(|thread| thread.want != Want::Nothing).count() == 1
            && run.can_go_on(&run.threads[run.current])
    });
    if !is_alone {
        #[expect(
            deprecated,
            reason = "the other way to yield has to be handed down through the engine"
        )]
        generator::yield_with(());
    }
}

/// The calling thread can do nothing before another has written something.
pub(crate) fn yield_now() {
    let writes = with(|run| run.writes);
    point(Want::Others(writes));
}

/// The calling thread knows but `rest` from now on.
pub(crate) fn forget(rest: impl Hash) {
    with(|run| {
        let number = run.current;
        let me = run.me();
        me.history = mix((number, rest, &me.seen));
    });
}

/// Does a step of which the calling thread learns `told` and nothing else.
pub(crate) fn step<T, H: Hash>(act: impl FnOnce() -> T, told: impl FnOnce(&T) -> H) -> T {
    let before = with(|run| run.me().history);
    let done = act();
    let told = mix(told(&done));
    with(|run| {
        let me = run.me();
        me.history = mix((before, told, &me.seen));
    });
    done
}

/// A number for an object that the calling thread makes: the same in every schedule in which the thread has the same history.
pub(crate) fn identity() -> u64 {
    with(|run| {
        let me = run.me();
        me.made += 1;
        mix((me.history, me.made, "made"))
    })
}

/// The calling thread has taken a lock, or was woken, and knows now what the other knew.
fn learn(me: &mut Thread, object: u64, trail: &Trail) {
    me.history = mix((me.history, object, trail));
    for (&counter, &earliest) in &trail.seen {
        let own = me.seen.entry(counter).or_default();
        *own = earliest.max(*own);
    }
}

/// Takes a lock that leaves `trail`; [`point`] has waited for it.
pub(crate) fn taken(lock: u64, trail: &Trail) {
    with(|run| {
        run.held.push(lock);
        learn(run.me(), lock, trail);
    });
}

/// Releases it.
pub(crate) fn released(lock: u64, trail: &mut Trail, left: Left) {
    with(|run| {
        run.held.retain(|&held| held != lock);
        let me = run.me();
        let knows = |(counter, earliest): (&u64, &usize)| {
            trail.seen.get(counter).is_some_and(|there| there >= earliest)
        };
        let is_known = me.seen.iter().all(knows);
        let content = match left {
            Left::AsItWas => trail.content,
            Left::Written(content) => content.unwrap_or_else(|| mix((me.history, lock))),
        };
        if content == trail.content && is_known {
            return;
        }
        let before = mix((lock, &trail));
        *trail = Trail { content, seen: me.seen.clone() };
        run.contents ^= before ^ mix((lock, &trail));
        run.writes += 1;
    });
}

/// Wakes who sleeps or will.
pub(crate) fn wake(sleep: u64, trail: &mut Trail) {
    with(|run| {
        if !run.woken.contains(&sleep) {
            run.woken.push(sleep);
            run.writes += 1;
            let me = run.me();
            *trail = Trail { content: mix((me.history, sleep)), seen: me.seen.clone() };
        }
    });
}

/// Whether somebody has.
pub(crate) fn is_woken(sleep: u64) -> bool {
    with(|run| run.woken.contains(&sleep))
}

/// The calling thread was woken.
pub(crate) fn woken(sleep: u64, trail: &Trail) {
    with(|run| learn(run.me(), sleep, trail));
}

/// Which of the values that a counter has had the calling thread reads. Places are counted from the first value.
pub(crate) fn read(counter: u64, values: &[usize]) -> usize {
    with(|run| {
        let earliest = run.me().seen.get(&counter).copied().unwrap_or(0);
        // Of the places of one value the earliest: whoever has read there can still see all that a later one would let it.
        let is_first = |&place: &usize| !values[earliest..place].contains(&values[place]);
        let places: Vec<usize> = (earliest..values.len()).filter(is_first).collect();
        let place = places[run.choose(places.len())];
        let me = run.me();
        me.history = mix((me.history, counter, place, values[place]));
        if place > 0 {
            me.seen.insert(counter, place);
        }
        values[place]
    })
}

/// The calling thread has written the value at `place` of a counter.
pub(crate) fn wrote(counter: u64, place: usize, value: usize) {
    with(|run| {
        let me = run.me();
        me.history = mix((me.history, counter, place, value, "written"));
        me.seen.insert(counter, place);
        run.writes += 1;
    });
}

/// Starts a thread.
pub(crate) fn spawn(body: Body) -> usize {
    with(|run| {
        let number = run.threads.len();
        let me = run.me();
        let thread = Thread {
            history: mix((me.history, number, "starts")),
            seen: me.seen.clone(),
            want: Want::Turn,
            made: 0,
        };
        run.add(thread, body)
    })
}

/// Waits for the end of a thread.
pub(crate) fn join(thread: usize) {
    point(Want::End(thread));
    with(|run| {
        let Thread { history, seen, .. } = &run.threads[thread];
        let trail = Trail { content: *history, seen: seen.clone() };
        learn(run.me(), thread as u64, &trail);
    });
}

/// What a search came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Searched {
    pub(crate) executions: usize,
    pub(crate) states: usize,
    pub(crate) is_complete: bool,
}

/// Runs `model` on the calling thread under every schedule within `bound`.
///
/// # Panics
/// If the model does, its threads are stuck, or it does not end.
pub(crate) fn search(model: &(impl Fn() + Clone + Send + 'static), bound: Bound) -> Searched {
    let begun = Instant::now();
    with(|run| *run = Run { most_preemptions: bound.preemptions, ..Run::default() });
    let mut stacks = Vec::new();
    let mut executions = 0;
    loop {
        let body = model.clone();
        with(|run| {
            run.begin();
            let first = Thread { history: 0, seen: Seen::new(), want: Want::Turn, made: 0 };
            run.add(first, Box::new(body));
        });
        execute(&mut stacks);
        executions += 1;
        let goes_on = with(Run::turn_back);
        if !goes_on || begun.elapsed() >= bound.time {
            let states = with(|run| std::mem::take(run).states.len());
            return Searched { executions, states, is_complete: !goes_on };
        }
    }
}

/// One execution, on stacks that are used again by the next.
fn execute(stacks: &mut Vec<Generator<'static, (), ()>>) {
    let mut begun = 0;
    loop {
        for body in with(|run| std::mem::take(&mut run.new)) {
            let body = move || {
                body();
                with(|run| {
                    run.me().want = Want::Nothing;
                    run.writes += 1;
                });
            };
            match stacks.get_mut(begun) {
                Some(stack) => stack.init_code(body),
                None => stacks.push(Gn::new_opt(STACK_WORDS, body)),
            }
            begun += 1;
        }
        let Some(next) = with(Run::next) else { return };
        stacks[next].resume();
    }
}
