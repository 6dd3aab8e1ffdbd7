//! What a workload lets in: whether callers must show who they are, and which of them may do what.
//!
//! PeerAuthentication and AuthorizationPolicy as Istio's sidecars carry them out. [`Guard::of`] picks what concerns one
//! workload, at configuration time; [`Guard::judge`] answers for one request or connection, and allocates only for a
//! path that is not normal and very long.
//!
//! This room knows names of identities, not how they are proved: a [`Call`] carries what the host has checked by its
//! certificates. It knows no JWT: nobody has a request principal here, as where there is no RequestAuthentication.
//!
//! ```
//! use meshroute::authorize::{Call, Guard, MutualTls};
//! use meshroute::{Mesh, Reading, Request, Resources, Viewpoint};
//!
//! let mut resources = Resources::new();
//! resources.apply_text(
//!     "apiVersion: security.istio.io/v1
//! kind: AuthorizationPolicy
//! metadata: {name: readers, namespace: shop}
//! spec:
//!   rules: [{from: [{source: {namespaces: [web]}}], to: [{operation: {methods: [GET]}}]}]
//! ",
//!     "shop.yaml",
//!     Reading::Strict,
//! );
//! let (guard, findings) = Guard::of(&resources, &Viewpoint::sidecar("shop"), &Mesh::default());
//! assert!(findings.is_empty());
//! assert_eq!(guard.mutual_tls(8080), MutualTls::Permissive);
//!
//! let request = Request::new("GET", "shop", "/");
//! let web = Call::new(8080).principal("cluster.local/ns/web/sa/front").request(&request);
//! assert!(guard.judge(&web).is_allowed());
//! let nobody = guard.judge(&Call::new(8080).request(&request));
//! assert_eq!(nobody.to_string(), "rbac_access_denied_matched_policy[none]");
//! ```

mod guard;
mod lower;
mod rule;
mod text;

pub use guard::{Call, Guard, MutualTls, Policy, Ruling};
