//! A real browser: headless Chromium, driven through its WebDriver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::person::Person;
use crate::process::Process;
use crate::wait::wait_for;
use crate::{World, tools};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// No window is narrower, but for that of a phone.
const DESKTOP_WIDTH_MIN: u32 = 500;
const LOOKS_EVERY: Duration = Duration::from_millis(100);
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// A window of a browser, closed when dropped.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    pictures: PathBuf,
    _driver: Process,
}

impl Browser {
    /// A window of this size in pixels.
    #[track_caller]
    pub fn open(world: &World, (width, height): (u32, u32)) -> Browser {
        let chromium = tools::other("chromium", "chromium");
        let home = world.directory("browser");
        let log = home.join("driver.log");
        let driver = tools::other("chromedriver", "chromium-driver");
        let mut command = Person::unprivileged().command(&driver, &home);
        command.arg("--port=0").env("HOME", &home).stdin(Stdio::null());
        let driver = Process::spawn_logged("chromedriver", &mut command, &log);
        let port = wait_for("the browser's driver", STARTS_WITHIN, || port_in(&log));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let arguments = json!([
            "--headless=new",
            // It shows our page only, and a sandbox is not to be had in every container.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--force-color-profile=srgb",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", home.join("profile").display()),
        ]);
        let mut options = json!({ "binary": chromium, "args": arguments });
        if width < DESKTOP_WIDTH_MIN {
            let metrics = json!({ "width": width, "height": height, "pixelRatio": 2, "touch": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let Value::Object(capabilities) = json!({ "browserName": "chrome", "goog:chromeOptions": options })
        else {
            unreachable!("an object")
        };
        let client = runtime
            .block_on(async {
                let connected = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                    .capabilities(capabilities)
                    .connect(&format!("http://127.0.0.1:{port}"))
                    .await;
                let client = connected.map_err(|error| error.to_string())?;
                if width >= DESKTOP_WIDTH_MIN {
                    client.set_window_size(width, height).await.map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(client)
            })
            .unwrap_or_else(|error| panic!("open a browser: {error}\n{}", crate::postgres::tail(&log)));
        Browser { runtime, client, pictures: pictures(), _driver: driver }
    }

    /// Goes to a page.
    #[track_caller]
    pub fn go(&self, url: &str) {
        self.runtime.block_on(self.client.goto(url)).unwrap_or_else(|error| panic!("go to {url}: {error}"));
    }

    /// What an element says, where it is there and shown.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        self.runtime
            .block_on(async { self.client.find(Locator::Css(selector)).await?.text().await })
            .unwrap_or_else(|error| panic!("read {selector}: {error}"))
    }

    /// Waits until an element says this.
    #[track_caller]
    pub fn wait_until_it_says(&self, selector: &str, words: &str) {
        let begun = Instant::now();
        loop {
            let said = self.text(selector);
            if said.contains(words) {
                return;
            }
            assert!(begun.elapsed() < SHOWS_WITHIN, "{selector} should say {words:?}: {said:?}");
            std::thread::sleep(LOOKS_EVERY);
        }
    }

    /// How many elements there are.
    pub fn count(&self, selector: &str) -> usize {
        let found = self.runtime.block_on(self.client.find_all(Locator::Css(selector)));
        found.map(|found| found.len()).unwrap_or(0)
    }

    /// Clicks on an element.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.runtime
            .block_on(async { self.client.find(Locator::Css(selector)).await?.click().await })
            .unwrap_or_else(|error| panic!("click on {selector}: {error}"));
    }

    /// Types into an element.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        self.runtime
            .block_on(async { self.client.find(Locator::Css(selector)).await?.send_keys(text).await })
            .unwrap_or_else(|error| panic!("type into {selector}: {error}"));
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.runtime
            .block_on(self.client.execute(script, Vec::new()))
            .unwrap_or_else(|error| panic!("run {script}: {error}"))
    }

    /// Keeps a picture of the whole page as `<name>.png`, in `$E2E_PICTURES` or beside the build.
    #[track_caller]
    pub fn picture(&self, name: &str) -> PathBuf {
        let png = self.runtime.block_on(self.client.screenshot()).expect("take a picture");
        let path = self.pictures.join(name).with_extension("png");
        fs::write(&path, png).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver is killed in any case, and takes its browser along when it is asked first.
        drop(self.runtime.block_on(self.client.clone().close()));
    }
}

fn port_in(log: &Path) -> Option<u16> {
    let text = fs::read_to_string(log).ok()?;
    let after = text.split("started successfully on port ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn pictures() -> PathBuf {
    let chosen = std::env::var_os("E2E_PICTURES").map(PathBuf::from);
    let directory = chosen.unwrap_or_else(|| {
        let program = std::env::current_exe().expect("the path of this test");
        program.ancestors().nth(2).expect("a directory of the build").join("pictures")
    });
    fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
    directory
}
