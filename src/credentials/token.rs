//! The token of the credential endpoint: a file that the agent's containers mount read-only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use subtle::ConstantTimeEq;

use super::Secret;

/// 32 random bytes, as 64 hex digits without a newline, since SDKs copy the file's content
/// unchanged into a header.
#[derive(Clone, Debug)]
pub struct Token(Secret<String>);

/// An error: the token file cannot be written. (An existing invalid file is replaced, which is no
/// error.)
#[derive(Debug, thiserror::Error)]
#[error("cannot write the token file {path} of the credential endpoint")]
pub struct NotWritten {
    path: String,
    #[source]
    error: io::Error,
}

impl Token {
    /// Returns the token that an earlier sidecar of this pod wrote, so that agents that have read
    /// it continue to work. Without a valid one, writes a new token atomically.
    pub fn keep(path: &Path, random: &[u8; 32]) -> Result<Self, NotWritten> {
        Self::replace_unless_ours(path, random)
            .map_err(|error| NotWritten { path: path.display().to_string(), error })
    }

    /// Compares in constant time, so that the response time reveals no part of the token.
    pub fn opens(&self, presented: &[u8]) -> bool {
        self.0.expose().as_bytes().ct_eq(presented).into()
    }

    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    fn replace_unless_ours(path: &Path, random: &[u8; 32]) -> io::Result<Self> {
        let written = path.with_extension("new");
        // A file that a killed sidecar left behind.
        match fs::remove_file(&written) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&written)?;
        let ours = file.metadata()?.uid();
        if let Some(token) = sound(path, ours) {
            fs::remove_file(&written)?;
            return Ok(token);
        }
        let token = Secret::new(hex(random));
        file.write_all(token.expose().as_bytes())?;
        fs::rename(&written, path)?;
        Ok(Self(token))
    }
}

/// Returns the token of a valid file: only the sidecar's user can have written it, no other user
/// can have changed it or can still change it, and agents can read it.
fn sound(path: &Path, ours: u32) -> Option<Token> {
    // A link may lead to a file of another user. Opening a pipe would block.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let is_ours = metadata.is_file()
        && metadata.uid() == ours
        && metadata.nlink() == 1
        && metadata.mode() & 0o777 == MODE;
    // Larger than any valid content, so that growing leaves no copy in memory.
    let mut text = String::with_capacity(4 * DIGITS);
    let read = file.take(LENGTH + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    let is_whole = read.is_ok_and(|read| read as u64 == LENGTH)
        && text.expose().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_ours && is_whole).then_some(Token(text))
}

fn hex(bytes: &[u8; 32]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    let mut text = String::with_capacity(DIGITS);
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]));
    text
}

const DIGITS: usize = 64;
const LENGTH: u64 = DIGITS as u64;
/// Readable by all users, since agents run as other users; only their containers mount the file.
const MODE: u32 = 0o444;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_restarted_sidecar_keeps_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token = Token::keep(&path, &[1; 32]).unwrap();
        assert_eq!(token.expose(), "01".repeat(32));
        assert_eq!(fs::read_to_string(&path).unwrap(), token.expose());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
        assert_eq!(Token::keep(&path, &[2; 32]).unwrap().expose(), token.expose());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_invalid_token_file_is_replaced() {
        let good = "ab".repeat(32);
        type Make<'a> = &'a dyn Fn(&Path);
        let cases: [(&str, Make<'_>); 9] = [
            ("empty", &|path| fs::write(path, "").unwrap()),
            ("short", &|path| fs::write(path, &good[..63]).unwrap()),
            ("long", &|path| fs::write(path, format!("{good}\n")).unwrap()),
            ("not hex", &|path| fs::write(path, "x".repeat(64)).unwrap()),
            ("not text", &|path| fs::write(path, [0xff; 64]).unwrap()),
            ("a link", &|path| {
                let target = path.with_file_name("target");
                fs::write(&target, &good).unwrap();
                symlink(&target, path).unwrap();
            }),
            ("linked elsewhere", &|path| {
                fs::write(path, &good).unwrap();
                fs::hard_link(path, path.with_file_name("target")).unwrap();
            }),
            ("not readable", &|path| {
                fs::write(path, &good).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
            }),
            ("writable", &|path| {
                fs::write(path, &good).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
            }),
        ];
        for (name, make) in cases {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("token");
            make(&path);
            if !["a link", "not readable", "writable"].contains(&name) {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
            }
            assert_eq!(Token::keep(&path, &[3; 32]).unwrap().expose(), "03".repeat(32), "{name}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "03".repeat(32), "{name}");
            assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "{name}");
            let target = fs::read_to_string(path.with_file_name("target"));
            assert!(target.is_err() || target.unwrap() == good, "{name}");
        }
    }

    #[test]
    fn a_token_file_of_another_user_is_invalid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        Token::keep(&path, &[1; 32]).unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        assert!(sound(&path, owner).is_some());
        assert!(sound(&path, owner + 1).is_none());
    }

    #[test]
    fn only_the_whole_token_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let token = Token::keep(&directory.path().join("token"), &[7; 32]).unwrap();
        let whole = token.expose().to_owned();
        assert!(token.opens(whole.as_bytes()));
        for wrong in ["", &whole[..63], &format!("{whole}0"), &format!("{}8", &whole[..63])] {
            assert!(!token.opens(wrong.as_bytes()), "{wrong}");
        }
    }
}
