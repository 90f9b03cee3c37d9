//! The API against its document, by schemathesis: what it describes is so, whatever is asked.

use super::{Console, config};
use crate::support::{Backend, programs, run};

/// Of requests that can be made of each schema. Some that the schema allows are refused for what they mean, such as `for`
/// next to `until_restart`: that valid data is accepted is not asked.
#[tokio::test]
async fn the_api_is_as_its_document_says() {
    let Some([env, schemathesis]) = programs(["env", "schemathesis"]) else { return };
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("one", &backend)], "", "admin_token = \"t\"\n", "")).await;
    let url = format!("http://{}", console.program.admin().await);
    let document = format!("{url}/api/v1/openapi.json");
    // The program leaves a directory where it runs.
    let directory = console.program.directory().to_str().unwrap();
    let arguments = [
        "-C",
        directory,
        schemathesis.to_str().unwrap(),
        "run",
        &document,
        "--url",
        &url,
        "-H",
        "Authorization: Bearer t",
        // Below the balancer's own.
        "--rate-limit",
        "80/s",
        "--max-examples",
        "8",
        "--phases",
        "coverage,fuzzing",
        "--exclude-checks",
        "positive_data_acceptance",
        // A stream without end.
        "--exclude-path",
        "/api/v1/events",
        "--seed",
        "1",
        "--no-color",
    ];
    let said = run(&env, &arguments, b"").await;
    assert!(said.ok, "{}{}", said.out, said.err);
    let document: serde_json::Value =
        serde_json::from_str(&console.get("/api/v1/openapi.json").await.unwrap().1).unwrap();
    // It does not ask for the document itself again.
    let asked = |path: &str| path != "/api/v1/events" && path != "/api/v1/openapi.json";
    let paths = document["paths"].as_object().unwrap().iter().filter(|(path, _)| asked(path));
    let operations: usize = paths.map(|(_, operations)| operations.as_object().unwrap().len()).sum();
    assert!(said.out.contains(&format!("Tested: {}", operations)), "{}", said.out);
}
