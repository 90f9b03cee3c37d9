//! `evenkeel top`: pools and backends, live. What is shown is in `view`, how in `draw`; this file owns the terminal.

mod draw;
mod foot;
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
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::CommandError;
use super::api::BackendName;
use super::client::AdminClient;
use crate::admin::{LimitBody, PoolsBody, StatusBody};
use crate::config::parse_duration;
use view::{KeyAction, TopView};

/// What is looked at.
const LOOK: &str = "/api/v1/pools?times=true";

/// And what is wrong with the whole.
const STATUS: &str = "/api/v1/status";

/// Between two looks, however often is asked for.
const SHORTEST: Duration = Duration::from_millis(100);

/// An answer that takes longer is told as trouble: the balancer is near.
const SLOW: Duration = Duration::from_secs(5);

/// Keys that wait while the screen is drawn.
const KEYS_WAITING: usize = 64;

/// Answers that wait while the screen is drawn: of the looks, which wait in turn, and of a few orders.
const NEWS_WAITING: usize = 8;

/// What is wrong, and the limits that are reached now.
fn all_troubles(troubles: Vec<String>, limits: &[LimitBody]) -> Vec<String> {
    let limits = limits.iter().filter(|limit| limit.until.is_none()).map(super::status::limit);
    troubles.into_iter().chain(limits).collect()
}

/// What the balancer answered.
enum ScreenNews {
    Looked(Result<(PoolsBody, Vec<String>), CommandError>),
    Said(String),
}

#[derive(Debug, clap::Args)]
pub(super) struct TopOptions {
    /// The time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Show only backends with this in their name, pool, standing or address
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

pub(super) async fn top(client: &AdminClient, options: &TopOptions, ink: bool) -> Result<(), CommandError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CommandError::Config("top needs a terminal; `evenkeel backends` needs none".to_owned()));
    }
    // Before the screen is taken, so that an error stays readable.
    let (pools, troubles) = look_once(client).await?;
    let mut view = TopView::new(options.filter.clone(), ink);
    view.take(pools, Instant::now());
    view.troubles = troubles;
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let result = follow(client, options, &mut view, &mut terminal).await;
    ratatui::restore();
    result
}

async fn follow(
    client: &AdminClient,
    options: &TopOptions,
    view: &mut TopView,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), CommandError> {
    let mut keys = keys();
    // A signal from outside gives the terminal back, too.
    let mut ends = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(hangup), Ok(interrupt)] = &mut ends else {
        return Err(CommandError::Runtime(anyhow::anyhow!("signals can't be watched")));
    };
    let (send, mut news) = mpsc::channel(NEWS_WAITING);
    tokio::spawn(look(client.clone(), options.interval.max(SHORTEST), send.clone()));
    loop {
        terminal.draw(|frame| draw::draw(frame, view)).context("the terminal")?;
        tokio::select! {
            Some(news) = news.recv() => match news {
                ScreenNews::Looked(Ok((pools, troubles))) => {
                    view.take(pools, Instant::now());
                    view.troubles = troubles;
                }
                // It may be restarted: what was seen last stays, and the line says why it is old.
                ScreenNews::Looked(Err(failure)) => view.trouble = failure.text(),
                ScreenNews::Said(text) => view.says = text,
            },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    match press(view, key) {
                        KeyAction::Nothing => {}
                        KeyAction::Quit => return Ok(()),
                        KeyAction::Order(named, word) => {
                            view.says = format!("{named}: {word} …");
                            tokio::spawn(order(client.clone(), named, word, send.clone()));
                        }
                    }
                }
                // Another size: drawn again.
                Some(_) => {}
                None => return Ok(()),
            },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Looks again and again. A task of its own: keys are heard also while the balancer is slow to answer, or hangs.
async fn look(client: AdminClient, interval: Duration, news: mpsc::Sender<ScreenNews>) {
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    looks.tick().await;
    loop {
        looks.tick().await;
        let looked = tokio::select! {
            looked = look_once(&client) => looked,
            () = tokio::time::sleep(SLOW) => {
                let failure = CommandError::Runtime(anyhow::anyhow!("the balancer does not answer"));
                Err(failure)
            }
        };
        if news.send(ScreenNews::Looked(looked)).await.is_err() {
            return;
        }
    }
}

async fn look_once(client: &AdminClient) -> Result<(PoolsBody, Vec<String>), CommandError> {
    let (pools, status): (PoolsBody, StatusBody) = (client.read(LOOK).await?, client.read(STATUS).await?);
    Ok((pools, all_troubles(status.troubles, &status.limits)))
}

async fn order(client: AdminClient, named: BackendName, word: &'static str, news: mpsc::Sender<ScreenNews>) {
    let given = client.change(Method::PATCH, &named.path(), &json!({ "operator": word })).await;
    let said = match given {
        Ok(_) => format!("{named}: {word}"),
        Err(failure) => failure.text(),
    };
    // The receiver is gone when the screen is.
    let _ = news.send(ScreenNews::Said(said)).await;
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

fn press(view: &mut TopView, key: KeyEvent) -> KeyAction {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => KeyAction::Quit,
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
        _ => KeyAction::Nothing,
    }
}
