//! A closed set of values: an enum, the list of all its values, and the name of each, written once.

/// Makes an enum with `ALL` and `name()`. With `serde` before `enum`, the same name is used in JSON and on the command line.
macro_rules! closed_set {
    ($(#[$meta:meta])* $visibility:vis serde enum $set:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        $visibility enum $set { $($(#[$doc])* #[value(name = $name)] #[serde(rename = $name)] $value,)+ }
        $crate::closed_set::closed_set!(@names $set { $($value = $name,)+ });
    };
    ($(#[$meta:meta])* $visibility:vis enum $set:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        $visibility enum $set { $($(#[$doc])* $value,)+ }
        $crate::closed_set::closed_set!(@names $set { $($value = $name,)+ });
    };
    (@names $set:ident { $($value:ident = $name:literal,)+ }) => {
        #[allow(dead_code, unreachable_pub, reason = "a set may be public or not, and listed or not")]
        impl $set {
            pub(crate) const ALL: &[Self] = &[$(Self::$value),+];

            /// The name in reports and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }
        }
    };
}

pub(crate) use closed_set;
