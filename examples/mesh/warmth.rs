//! When those who wait for pods after discovery's start are told to look again.
//!
//! Knows neither pods nor time: whether all run, and whether they have been waited for long enough, is handed in.

/// What is to be done at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is new.
    Wait,
    /// Whoever waits may have something now.
    Wake,
    /// The same, for the last time.
    Last,
}

/// What was seen at the last look.
#[derive(Default)]
pub struct Warmth {
    was_warm: bool,
}

impl Warmth {
    /// Looks at whether everybody may be served (`is_warm`), and whether that holds from now on whoever runs (`is_over`). As soon
    /// as all run, nobody waits any longer; one may go after that, and then it is waited for again.
    pub fn look(&mut self, is_warm: bool, is_over: bool) -> Look {
        let was_warm = std::mem::replace(&mut self.was_warm, is_warm);
        match (is_over, is_warm && !was_warm) {
            (true, _) => Look::Last,
            (false, true) => Look::Wake,
            (false, false) => Look::Wait,
        }
    }
}
