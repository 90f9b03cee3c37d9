//! `evenkeel top`: pools and backends, live. What is shown is in `view`, how in `draw`; this file owns the terminal.

mod draw;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::json;
use tokio::sync::mpsc;

use super::Failure;
use super::api::{Named, Pools};
use super::client::Client;
use view::{Asked, View};

/// Keys that wait while the screen is drawn.
const KEYS_WAITING: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Show what has this in its name, pool, standing or address
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

pub(super) async fn top(client: &Client, options: &Options, ink: bool) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Config("top needs a terminal; `evenkeel backends` and `--json` do not".to_owned()));
    }
    // Before the screen is taken, so that an error stays readable.
    let first: Pools = client.read("/api/v1/pools?times=true").await?;
    let mut view = View::new(options.filter.clone(), ink);
    view.take(first, Instant::now());
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let result = follow(client, options, &mut view, &mut terminal).await;
    ratatui::restore();
    result
}

async fn follow(
    client: &Client,
    options: &Options,
    view: &mut View,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Failure> {
    let mut keys = keys();
    let interval = options.interval.max(Duration::from_millis(100));
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    looks.tick().await;
    loop {
        terminal.draw(|frame| draw::draw(frame, view)).context("the terminal")?;
        tokio::select! {
            _ = looks.tick() => match client.read("/api/v1/pools?times=true").await {
                Ok(pools) => view.take(pools, Instant::now()),
                // It may be restarted: what was seen last stays, and the line says why it is old.
                Err(failure) => view.trouble(failure.text()),
            },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    match press(view, key) {
                        Asked::Nothing => {}
                        Asked::Quit => return Ok(()),
                        Asked::Order(named, word) => order(client, view, &named, word).await,
                    }
                }
                // Another size: drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

/// From a thread of its own, because reading a terminal blocks; it ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (send, keys) = mpsc::channel(KEYS_WAITING);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

fn press(view: &mut View, key: KeyEvent) -> Asked {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => Asked::Quit,
        KeyCode::Char(c) => view.letter(c),
        KeyCode::Enter => view.enter(),
        KeyCode::Esc => view.escape(),
        KeyCode::Backspace => view.backspace(),
        KeyCode::Up => view.step(-1),
        KeyCode::Down => view.step(1),
        KeyCode::PageUp => view.step(-10),
        KeyCode::PageDown => view.step(10),
        KeyCode::Home => view.step(isize::MIN / 2),
        KeyCode::End => view.step(isize::MAX / 2),
        _ => Asked::Nothing,
    }
}

async fn order(client: &Client, view: &mut View, named: &Named, word: &'static str) {
    let given = client.change(Method::PATCH, &named.path(), &json!({ "operator": word })).await;
    if let Ok(pools) = client.read("/api/v1/pools?times=true").await {
        view.take(pools, Instant::now());
    }
    view.says = match given {
        Ok(_) => format!("{named}: {word}"),
        Err(failure) => failure.text(),
    };
}
