//! Any resource, and the list of kinds that there are.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    AuthorizationPolicy, Deployment, DestinationRule, EndpointSlice, Endpoints, EnvoyFilter, Gateway, Metadata,
    Namespace, PeerAuthentication, Pod, Service, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
};

/// A document as it is written: which kind it is stands before the rest of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

macro_rules! kinds {
    ($( $group:literal, $version:literal, $served:pat => $($kind:ident),+; )*) => {
        /// Any resource of a kind that is known here.
        ///
        /// It serializes as a document, `apiVersion` first. Which of several served versions it was read from is not
        /// kept; it is written with the one that the cluster stores.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "a box would cost readers more than it saves")]
        #[non_exhaustive]
        pub enum Object {
            $($(
                #[doc = concat!("A [`", stringify!($kind), "`] (`", $version, "`).")]
                $kind($kind),
            )+)*
        }

        impl Object {
            /// The kind, such as `VirtualService`.
            pub const fn kind(&self) -> &'static str {
                match self { $($( Object::$kind(_) => stringify!($kind), )+)* }
            }

            /// The API group, such as `networking.istio.io`; empty for Kubernetes' core.
            pub const fn group(&self) -> &'static str {
                match self { $($( Object::$kind(_) => $group, )+)* }
            }

            /// The group and version that it is written with, such as `networking.istio.io/v1`.
            pub const fn api_version(&self) -> &'static str {
                match self { $($( Object::$kind(_) => $version, )+)* }
            }

            /// Its name, namespace, labels and so on.
            pub const fn metadata(&self) -> &Metadata {
                match self { $($( Object::$kind(object) => &object.metadata, )+)* }
            }

            /// Its metadata, to change.
            pub const fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $($( Object::$kind(object) => &mut object.metadata, )+)* }
            }

            /// Reads a document of the kind that `api_version` and `kind` name; `None` if that is none known here.
            ///
            /// The deserializer may yield the whole document: its `apiVersion` and `kind` are passed over.
            ///
            /// # Errors
            /// Those of the deserializer, for a value that does not fit its field.
            pub fn read<'de, D>(api_version: &str, kind: &str, deserializer: D) -> Option<Result<Object, D::Error>>
            where
                D: Deserializer<'de>,
            {
                match (api_version, kind) {
                    $($(
                        ($served, stringify!($kind)) => {
                            Some($kind::deserialize(deserializer).map(Object::$kind))
                        }
                    )+)*
                    _ => None,
                }
            }
        }

        impl Serialize for Object {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let (api_version, kind) = (self.api_version(), self.kind());
                match self {
                    $($( Object::$kind(body) => Document { api_version, kind, body }.serialize(serializer), )+)*
                }
            }
        }

        $($(
            impl From<$kind> for Object {
                fn from(object: $kind) -> Object {
                    Object::$kind(object)
                }
            }
        )+)*
    };
}

// A group, the version that is stored, the versions that are served, and the kinds.
kinds! {
    "networking.istio.io", "networking.istio.io/v1",
    "networking.istio.io/v1" | "networking.istio.io/v1beta1" | "networking.istio.io/v1alpha3"
        => VirtualService, DestinationRule, Gateway, ServiceEntry, Sidecar, WorkloadEntry;
    "networking.istio.io", "networking.istio.io/v1alpha3", "networking.istio.io/v1alpha3" => EnvoyFilter;
    "security.istio.io", "security.istio.io/v1", "security.istio.io/v1" | "security.istio.io/v1beta1"
        => PeerAuthentication, AuthorizationPolicy;
    "", "v1", "v1" => Service, Pod, Namespace, Endpoints;
    "apps", "apps/v1", "apps/v1" => Deployment;
    "discovery.k8s.io", "discovery.k8s.io/v1", "discovery.k8s.io/v1" => EndpointSlice;
}
