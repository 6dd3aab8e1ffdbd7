//! Lines on their way to this process's log, which is its standard error.
//!
//! Gathered for a moment and written many at once, by a thread of their own, as Envoy does it: a request does not wait for
//! the file. The parts of a mesh share one, so that what is written in one piece is whole lines. Knows nothing of what
//! they say. What is killed without a word takes the last moment's lines along; any other end writes them first.

use std::io::Write as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a line waits for others, at most.
const PAUSE: Duration = Duration::from_millis(100);
/// How many bytes wait no longer.
const ENOUGH: usize = 64 << 10;
/// How many bytes make who brings more wait for the file.
const TOO_MANY: usize = 16 * ENOUGH;

/// The lines that wait.
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: Vec::new(), writer: Writer::None });
/// Something waits, or enough does.
static NEWS: Condvar = Condvar::new();
/// Whoever writes has this, so that what came first is written first: room for lines, with none in it.
static TURN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Waiting {
    lines: Vec<u8>,
    writer: Writer,
}

/// Who writes the lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Nobody yet.
    None,
    /// A thread.
    Thread,
    /// Whoever brings them: the process is about to end, or has no thread to spare.
    Everybody,
}

/// Takes a line. A log that cannot be written is no reason to fail.
pub fn write(line: &str) {
    let mut waiting = lock(&WAITING);
    let before = waiting.lines.len();
    waiting.lines.extend_from_slice(line.as_bytes());
    waiting.lines.push(b'\n');
    let now = waiting.lines.len();
    if waiting.writer == Writer::None {
        let started = thread::Builder::new().name("log".into()).spawn(work);
        waiting.writer = if started.is_ok() { Writer::Thread } else { Writer::Everybody };
    }
    let at_once = waiting.writer == Writer::Everybody || now >= TOO_MANY;
    drop(waiting);
    if at_once {
        flush();
    } else if before == 0 || before < ENOUGH && now >= ENOUGH {
        NEWS.notify_one();
    }
}

/// Writes what there is, and from now on each line as it comes.
pub fn end() {
    lock(&WAITING).writer = Writer::Everybody;
    flush();
}

fn work() {
    loop {
        let waiting = lock(&WAITING);
        let waiting =
            NEWS.wait_while(waiting, |waiting| waiting.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let few = |waiting: &mut Waiting| waiting.lines.len() < ENOUGH;
        let gathered = NEWS.wait_timeout_while(waiting, PAUSE, few).unwrap_or_else(PoisonError::into_inner);
        drop(gathered);
        flush();
    }
}

fn flush() {
    let mut lines = lock(&TURN);
    std::mem::swap(&mut *lines, &mut lock(&WAITING).lines);
    let _ = std::io::stderr().write_all(&lines);
    lines.clear();
    lines.shrink_to(ENOUGH);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
