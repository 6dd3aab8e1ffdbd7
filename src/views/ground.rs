//! What all clients share: the resources, and what is known of them whoever asks.

use crate::resolve::{Mesh, Roots, Rules, Shared, World};
use crate::resources::Resources;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) resources: Resources,
    pub(super) mesh: Mesh,
    pub(super) world: World,
    pub(super) rules: Rules,
    pub(super) roots: Roots,
}

impl Ground {
    pub(super) fn new(resources: Resources, mesh: Mesh) -> Self {
        let (world, rules) = (World::new(&resources, &mesh), Rules::new(&resources, &mesh));
        let roots = Roots::new(&resources, &mesh);
        Ground { resources, mesh, world, rules, roots }
    }

    pub(super) fn read_again(&mut self) {
        self.world = World::new(&self.resources, &self.mesh);
        self.rules = Rules::new(&self.resources, &self.mesh);
        self.roots = Roots::new(&self.resources, &self.mesh);
    }

    pub(super) fn shared(&self) -> Shared<'_> {
        let Ground { resources, mesh, world, rules, roots } = self;
        Shared { resources, world, rules, roots, mesh }
    }
}
