use super::*;
use crate::local::supervisor::diagnose::Failure;
use crate::local::supervisor::launch::Environment;
use crate::wire::{app, core, identifier};
use base64::Engine as _;
use futures::future::BoxFuture;
use std::fs;
use std::io::Write as _;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Finds an environment by its name, below the home.
struct ByName(Home);

impl Environments for ByName {
    fn locate(&self, image_uri: &str) -> Result<Option<Environment>, String> {
        let path = self.0.path().join("envs").join(image_uri);
        Ok(path.is_dir().then(|| Environment {
            path,
            ..Environment::default()
        }))
    }

    fn prepare<'a>(
        &'a self,
        _: &'a str,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: &str) -> Option<String> {
        None
    }
}

struct World {
    _folder: tempfile::TempDir,
    pruner: Pruner,
}

impl World {
    fn new(max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().to_path_buf());
        let store = Store::open(&home.database()).unwrap();
        Self {
            pruner: Pruner {
                environments: Arc::new(ByName(home.clone())),
                store: Arc::new(store),
                upkeep: Upkeep {
                    max_bytes,
                    unused_for: 30 * DAY,
                },
                gate: Gate::default(),
                home,
            },
            _folder: folder,
        }
    }

    /// A file that was last used so long ago.
    fn file(&self, name: &str, unused: Duration) -> PathBuf {
        let path = self.pruner.home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [7; 10_000]).unwrap();
        age(&path, unused);
        path
    }

    fn bundle(&self, digest: &str, unused: Duration) -> PathBuf {
        self.file(&format!("uploads/p/d/{digest}/code.tar.zst"), unused)
    }

    fn environment(&self, tag: &str, unused: Duration) -> PathBuf {
        let path = self.file(&format!("envs/{tag}/flyte-env.json"), unused);
        path.parent().unwrap().to_path_buf()
    }

    fn serve(&self, name: &str, app: &app::App) -> AppKey {
        let key = AppKey::of(&identifier("", "p", "d", name));
        match self.pruner.store.app(&key).unwrap() {
            Some(_) => drop(self.pruner.store.insert_revision(&key, app).unwrap()),
            None => {
                let port = u16::try_from(self.pruner.store.apps().unwrap().len()).unwrap();
                self.pruner
                    .store
                    .create_app(&key, 20_000 + port, app)
                    .unwrap();
            }
        }
        key
    }

    fn run(&self) -> Report {
        self.pruner.run(Order::default()).unwrap()
    }
}

fn age(path: &Path, unused: Duration) {
    let file = fs::File::options().read(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - unused).unwrap();
}

fn app(bundle: &str, image: &str, args: Vec<String>) -> app::App {
    app::App {
        metadata: app::Meta {
            code_bundle_uri: format!("file:///home/uploads/p/d/{bundle}/code.tar.zst"),
            ..Default::default()
        }
        .into(),
        spec: app::Spec {
            app_payload: Some(app::spec::AppPayload::Container(Box::new(
                core::Container {
                    image: image.to_owned(),
                    args,
                    ..Default::default()
                },
            ))),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

fn digest(number: u128) -> String {
    format!("{number:032x}")
}

#[test]
fn what_a_kept_revision_names_stays_and_what_nobody_named_for_long_goes() {
    let world = World::new(u64::MAX);
    let long = 40 * DAY;
    let (used, pickled, packed, unused, lately) = (
        world.bundle(&digest(1), long),
        world.bundle(&digest(2), long),
        world.bundle(&digest(3), long),
        world.bundle(&digest(4), long),
        world.bundle(&digest(5), 20 * DAY),
    );
    let (served, left) = (
        world.environment(&digest(6), long),
        world.environment(&digest(7), long),
    );
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write!(zipped, "[\"file:///x/{}/data\"]", digest(3)).unwrap();
    let parameters = base64::engine::general_purpose::STANDARD.encode(zipped.finish().unwrap());
    let pickle = format!("file:///home/uploads/p/d/{}/code.pkl", digest(2));
    world.serve(
        "web",
        &app(&digest(1), &digest(6), vec![pickle, parameters]),
    );

    let order = Order {
        dry_run: true,
        ..Order::default()
    };
    let told = world.pruner.run(order).unwrap();
    assert!(
        unused.exists() && left.exists(),
        "a dry run removes nothing"
    );
    let report = world.run();
    assert_eq!(told.removed.len(), 2);
    assert_eq!(
        (told.freed_bytes, told.kept_bytes),
        (report.freed_bytes, report.kept_bytes)
    );
    assert!(report.freed_bytes >= 20_000, "{report:?}");
    for kept in [&used, &pickled, &packed, &lately, &served] {
        assert!(kept.exists(), "{}", kept.display());
    }
    for gone in [&unused, &left] {
        assert!(!gone.exists(), "{}", gone.display());
    }
    assert!(!world.pruner.home.path().join("trash").exists());
}

#[test]
fn a_folder_that_was_uploaded_is_as_young_as_the_file_in_it_that_was_used_last() {
    let world = World::new(u64::MAX);
    let long = 40 * DAY;
    let [used, unused] = [digest(1), digest(2)].map(|digest| {
        let path = world.file(&format!("uploads/p/d/{digest}/model/weights.bin"), long);
        age(path.parent().unwrap(), long);
        path
    });
    // As whoever asks whether it is there does.
    assert!(files::touch(&used));
    world.run();
    assert!(used.exists() && !unused.exists());
}

#[test]
fn above_the_budget_the_longest_unused_goes_first() {
    let world = World::new(30_000);
    let bundles: Vec<PathBuf> = (1..=5)
        .map(|number| world.bundle(&digest(u128::from(number)), DAY * number))
        .collect();
    let report = world.run();
    let there: Vec<bool> = bundles.iter().map(|path| path.exists()).collect();
    // Each takes three blocks: two of them fit.
    assert_eq!(there, [true, true, false, false, false]);
    assert!(report.kept_bytes <= 30_000, "{report:?}");
}

#[test]
fn what_was_touched_just_now_stays_whatever_is_wanted() {
    let world = World::new(0);
    let (lately, before) = (
        world.bundle(&digest(1), Duration::from_secs(60)),
        world.bundle(&digest(2), GRACE * 2),
    );
    let all = Order {
        all: true,
        ..Order::default()
    };
    world.pruner.run(all).unwrap();
    assert!(lately.exists() && !before.exists());
}

#[test]
fn what_a_builder_has_locked_stays() {
    let world = World::new(0);
    let env = world.environment(&digest(1), 90 * DAY);
    let lock = files::lock_exclusive(&env.with_extension("lock")).unwrap();
    world.run();
    assert!(env.exists());
    drop(lock);
    world.run();
    assert!(!env.exists());
}

#[test]
fn what_is_used_in_the_moment_of_its_removal_is_put_back() {
    let world = World::new(0);
    let path = world.bundle(&digest(1), 90 * DAY);
    let found = found::all(&world.pruner.home);
    assert!(files::touch(&path));
    let aside = world.pruner.home.path().join("aside");
    assert!(take_away(&found[0], &aside).is_none());
    assert!(path.exists() && !aside.exists());
}

#[test]
fn what_resists_is_not_in_the_way_of_the_next_run() {
    let world = World::new(0);
    let closed = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for number in 1..=2 {
        let path = world.bundle(&digest(number), 90 * DAY);
        let folder = path.parent().unwrap();
        closed(folder, 0o500);
        let report = world.run();
        assert!(!path.exists(), "round {number}: {report:?}");
        assert!(report.freed_bytes > 0);
    }
    assert!(!world.pruner.home.trash().exists());
}

#[test]
fn a_parameter_that_nobody_links_to_goes() {
    let world = World::new(0);
    let path = world.file("cache/parameters/blobs/ab/cd", Duration::ZERO);
    let mut found = found::all(&world.pruner.home);
    assert_eq!(found.len(), 1);
    let trash = world.pruner.home.trash();
    assert!(take_away(&found.pop().unwrap(), &trash).is_some());
    assert!(!path.exists());
}

#[test]
fn folders_of_apps_and_revisions_that_are_gone_go() {
    let world = World::new(u64::MAX);
    let key = world.serve("web", &app("", "", Vec::new()));
    let there = ["1", "1-7", "logs", "2", "2-3"].map(|name| {
        let folder = world.pruner.home.apps().join(key.as_str()).join(name);
        fs::create_dir_all(&folder).unwrap();
        age(&folder, DAY);
        folder
    });
    let deleted = world.pruner.home.apps().join("p/d/deleted/logs");
    fs::create_dir_all(&deleted).unwrap();
    age(deleted.parent().unwrap(), DAY);
    world.run();
    let left: Vec<bool> = there.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [true, true, true, false, false]);
    assert!(!deleted.exists());
    set_aside_left_behind(&world.pruner.home, &world.pruner.store).unwrap();
    assert!(there[0].exists() && !there[1].exists() && there[2].exists());
}

fn row(revision: Revision, age: Duration, failed: bool) -> used::Past {
    let made = SystemTime::now() - age;
    let since = made.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    used::Past {
        revision,
        failed,
        created_at: i64::try_from(since.as_millis()).unwrap(),
    }
}

#[test]
fn old_revisions_go_but_not_the_newest_nor_the_way_back() {
    let app = store::AppRow {
        key: AppKey::of(&identifier("", "p", "d", "web")),
        port: 1,
        desired_active: true,
        serving: Some(5),
        latest: 40,
        created_at: 0,
        updated_at: 0,
    };
    // All that followed the one that serves have failed.
    let rows: Vec<_> = (1..=40)
        .map(|number| row(number, 3 * DAY, number > 5 || number == 4))
        .collect();
    let gone = |rows: &[used::Past]| -> Vec<Revision> {
        let outdated = used::outdated(&app, rows, SystemTime::now());
        outdated.iter().map(|row| row.revision).collect()
    };
    let expected: Vec<Revision> = (1..=20).rev().filter(|n| ![3, 5].contains(n)).collect();
    assert_eq!(gone(&rows), expected);
    let young: Vec<_> = (1..=40).map(|number| row(number, DAY, false)).collect();
    assert_eq!(gone(&young), Vec::<Revision>::new());
}

/// Whoever is told that a bundle is there may file an app with it, however often it is tidied up.
#[test]
fn nothing_goes_between_the_look_at_it_and_the_app_that_uses_it() {
    let world = World::new(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rounds: u128 = 200;
    let all: Vec<PathBuf> = (1..=rounds)
        .map(|number| world.bundle(&digest(number), 90 * DAY))
        .collect();
    let pruner = world.pruner.clone();
    let over = std::sync::atomic::AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                pruner.run(Order::default()).unwrap();
            }
        });
        let mut served = Vec::new();
        for (number, path) in (1..).zip(&all) {
            // As a client does: it asks, and files the app later.
            if files::touch(path) {
                let _open = runtime.block_on(world.pruner.gate.read());
                world.serve("web", &app(&digest(number), "", Vec::new()));
                served.push(path);
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        served
    });
    for path in served {
        assert!(path.exists(), "{} was removed", path.display());
    }
}
