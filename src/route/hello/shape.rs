//! ClientHellos for tests, written by hand, sound or not.

/// A message; every field may be made wrong.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) session_id: Vec<u8>,
    pub(crate) cipher_suites: Vec<u8>,
    pub(crate) compression: Vec<u8>,
    /// Types and contents; `None` = the message has no list of extensions.
    pub(crate) extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            session_id: vec![7; 32],
            // The first one is GREASE.
            cipher_suites: vec![0x3a, 0x3a, 0x13, 0x01, 0x13, 0x02],
            compression: vec![0],
            extensions: Some(vec![(0x7a7a, vec![]), (43, vec![4, 0x9a, 0x9a, 3, 4])]),
        }
    }
}

impl Shape {
    pub(crate) fn named(name: &str) -> Self {
        Self::default().with(0, server_names(&[(0, name.as_bytes())]))
    }

    pub(crate) fn with(mut self, kind: u16, content: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().push((kind, content));
        self
    }

    pub(crate) fn alpn(self, protocols: &[&[u8]]) -> Self {
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| counted::<1>(protocol)).collect();
        self.with(16, counted::<2>(&list))
    }

    /// The handshake message with its header.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend(counted::<1>(&self.session_id));
        body.extend(counted::<2>(&self.cipher_suites));
        body.extend(counted::<1>(&self.compression));
        if let Some(extensions) = &self.extensions {
            let extension =
                |(kind, content): &(u16, Vec<u8>)| [&kind.to_be_bytes()[..], &counted::<2>(content)].concat();
            body.extend(counted::<2>(&extensions.iter().flat_map(extension).collect::<Vec<u8>>()));
        }
        [&[1][..], &counted::<3>(&body)].concat()
    }

    /// In records of at most the usual size.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        records(&self.message(), 1 << 14)
    }
}

/// A list for the extension; each name has its type.
pub(crate) fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let name = |(kind, name): &(u8, &[u8])| [&[*kind][..], &counted::<2>(name)].concat();
    counted::<2>(&names.iter().flat_map(name).collect::<Vec<u8>>())
}

/// Spreads a message over records with so many bytes each.
pub(crate) fn records(message: &[u8], each: usize) -> Vec<u8> {
    message.chunks(each).flat_map(|part| [&[22, 3, 1][..], &counted::<2>(part)].concat()).collect()
}

/// With its length in `N` bytes before it.
pub(crate) fn counted<const N: usize>(bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - N..], bytes].concat()
}
