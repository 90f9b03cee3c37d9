//! Closed sets of words: enums whose variants have one name each, in the file, the API, metrics and logs alike.

/// A value that is one of a few words.
pub(crate) trait Word: Copy + 'static {
    /// All of them with their words, in the order of the declaration.
    const WORDS: &'static [(&'static str, Self)];
}

/// Declares such an enum, with `ALL`, `name`, and serde's traits by the name.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$of_variant])* $variant,)+ }

        #[allow(dead_code, reason = "not each of them needs both")]
        impl $name {
            /// All of them, in the order of their numbers.
            $vis const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word for it in the file, the API, metrics and logs.
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl From<$name> for usize {
            fn from(word: $name) -> Self {
                word as Self
            }
        }

        impl $crate::words::Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                let unknown = || serde::de::Error::unknown_variant(&text, &[$($word),+]);
                Self::ALL.into_iter().find(|word| word.name() == text).ok_or_else(unknown)
            }
        }
    };
}
