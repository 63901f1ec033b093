//! Where the build's target directory is.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The target directory: `CARGO_TARGET_DIR`, or `target` of the workspace.
pub(crate) fn directory() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    resolve(env::var_os("CARGO_TARGET_DIR"), &workspace_of(&manifest))
}

fn resolve(chosen: Option<OsString>, workspace: &Path) -> PathBuf {
    match chosen {
        // `join` takes an absolute path as it is. A relative one is meant from where cargo was
        // called, which is the workspace as a rule.
        Some(chosen) if !chosen.is_empty() => workspace.join(chosen),
        _ => workspace.join("target"),
    }
}

/// The nearest directory with a lock file, from the manifest's own upwards.
fn workspace_of(manifest: &Path) -> PathBuf {
    manifest
        .ancestors()
        .find(|directory| directory.join("Cargo.lock").is_file())
        .unwrap_or(manifest)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_where_the_lock_file_is() {
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("crates/inner");
        std::fs::create_dir_all(&package).unwrap();
        assert_eq!(workspace_of(&package), package);

        std::fs::write(root.path().join("Cargo.lock"), "").unwrap();
        assert_eq!(workspace_of(&package), root.path());
    }

    #[test]
    fn a_chosen_target_directory_wins() {
        let workspace = Path::new("/workspace");
        assert_eq!(resolve(None, workspace), Path::new("/workspace/target"));
        assert_eq!(
            resolve(Some("".into()), workspace),
            Path::new("/workspace/target")
        );
        assert_eq!(
            resolve(Some("out".into()), workspace),
            Path::new("/workspace/out")
        );
        assert_eq!(
            resolve(Some("/big/disk".into()), workspace),
            Path::new("/big/disk")
        );
    }
}
