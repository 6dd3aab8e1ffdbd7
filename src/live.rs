//! The one cell that is swapped: readers load a snapshot, a writer publishes the next router whole.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::router::Router;

/// Holds the router in force.
///
/// ```
/// use meshroute::{Live, Plan, Router};
/// let live = Live::new(Router::compile(Plan::default())?);
/// let before = live.load();
/// live.publish(Router::compile(Plan::default())?);
/// // Whoever loaded before keeps what was in force then, to the end of the request.
/// assert!(!std::sync::Arc::ptr_eq(before.plan(), live.load().plan()));
/// # Ok::<(), meshroute::PlanError>(())
/// ```
#[derive(Debug)]
pub struct Live {
    current: ArcSwap<Router>,
}

impl Live {
    /// A cell that holds this router.
    pub fn new(router: impl Into<Arc<Router>>) -> Self {
        Live { current: ArcSwap::new(router.into()) }
    }

    /// The router in force. Load once per request and keep it to the end: routes, policies and endpoints then belong
    /// together. Cheap, wait-free and without allocation.
    pub fn load(&self) -> Snapshot {
        Snapshot(self.current.load())
    }

    /// Puts another router in force and hands back the one before. Readers see either the old or the new one whole.
    pub fn publish(&self, router: impl Into<Arc<Router>>) -> Arc<Router> {
        self.current.swap(router.into())
    }
}

/// A router that stays as it was when it was loaded. Dereferences to it.
#[derive(Debug)]
pub struct Snapshot(Guard<Arc<Router>>);

impl Snapshot {
    /// The router, to be kept as long as one likes.
    pub fn to_arc(&self) -> Arc<Router> {
        Arc::clone(&self.0)
    }
}

impl Deref for Snapshot {
    type Target = Router;
    fn deref(&self) -> &Router {
        &self.0
    }
}
