//! What a person reads: every message, a page a theme.

use super::{SMALLEST, read_with, snapshot, with_more, with_pool};

pub(super) fn refused(text: &str) -> String {
    refused_with(text, &[])
}

pub(super) fn refused_with(text: &str, env: &[(&str, &str)]) -> String {
    read_with(text, env).expect_err("it is refused").to_string()
}

/// The messages of a theme, each under its name.
macro_rules! page {
    ($page:literal; $($name:literal: $text:expr,)+) => {
        let messages = [$(format!("--- {}\n{}", $name, refused(&$text))),+];
        snapshot($page, &messages.join("\n\n"));
    };
}
pub(super) use page;

#[test]
fn toml_and_keys() {
    page! {
        "refused_toml_and_keys";
        "empty_file": "",
        "no_quotes": "[listeners.web]\nbind = 0.0.0.0:8080\n",
        "no_value": "[listeners.web]\nbind =\n",
        "unclosed_string": "[listeners.web]\nbind = \"0.0.0.0:8080\n",
        "duplicate_key": with_more("balance = \"round_robin\"\nbalance = \"round_robin\""),
        "duplicate_table": with_more("[pools.web]"),
        "unknown_key": SMALLEST.replace("pool = ", "pol = "),
        "unknown_key_far": with_more("servers = 3"),
        "unknown_key_inline": with_more("connect = { timeout = \"1s\", atempts = 3 }"),
        "unknown_key_top": with_more("[pool.web]"),
        "unknown_key_in_backend": with_pool("backends = [\"a:1\", { adress = \"b:1\" }]"),
    }
}

#[test]
fn policies() {
    page! {
        "refused_policies";
        "hash_without_a_policy_that_hashes": with_more("hash = \"client_address\""),
        "factor_without_a_policy_that_hashes": with_more("balance = \"power_of_two\"\nbalance_factor = 125"),
        "unknown_hash": with_more("balance = \"maglev\"\nhash = \"client_adress\""),
        "hash_by_unknown": with_more("balance = \"maglev\"\nhash = { by = \"port\" }"),
        "hash_unknown_key": with_more("balance = \"maglev\"\nhash = { kind = \"client_address\" }"),
        "hash_number": with_more("balance = \"ring_hash\"\nhash = 24"),
        "prefix_too_long": with_more("balance = \"ring_hash\"\nhash = { prefix = { v4 = 33 } }"),
        "prefix_of_nothing": with_more("balance = \"ring_hash\"\nhash = { prefix = { v6 = 0 } }"),
        "prefix_of_a_connection": with_more("balance = \"maglev\"\nhash = { by = \"client_and_port\", prefix = { v4 = 24 } }"),
        "prefix_of_a_destination": with_more("balance = \"maglev\"\nhash = { by = \"destination\", prefix = { v4 = 24 } }"),
        "tlv_of_an_address": with_more("balance = \"maglev\"\nhash = { by = \"client_address\", tlv = 0xE4 }"),
        "tlv_without_its_type": with_more("balance = \"maglev\"\nhash = \"proxy_tlv\""),
        "tlv_without_its_type_in_a_table": with_more("balance = \"maglev\"\nhash = { by = \"proxy_tlv\" }"),
        "tlv_too_large": with_more("balance = \"maglev\"\nhash = { by = \"proxy_tlv\", tlv = 256 }"),
        "tlv_as_text": with_more("balance = \"maglev\"\nhash = { by = \"proxy_tlv\", tlv = \"0xE4\" }"),
        "prefix_of_a_name": with_more("balance = \"maglev\"\nhash = { by = \"sni\", prefix = { v4 = 24 } }"),
        "sticky_next_to_a_hash": with_more("balance = \"ring_hash\"\nsticky = { ttl = \"30m\" }"),
        "sticky_as_a_switch": with_more("sticky = true"),
        "sticky_by_unknown": with_more("sticky = { by = \"cookie\" }"),
        "sticky_unknown_key": with_more("sticky = { time = \"30m\" }"),
        "sticky_for_no_time": with_more("sticky = { ttl = \"0s\" }"),
        "sticky_ttl_as_a_number": with_more("sticky = { ttl = 30 }"),
        "sticky_for_nobody": with_more("sticky = { max = 0 }"),
        "sticky_for_too_many": with_more("sticky = { max = 10000001 }"),
        "sticky_prefix_too_long": with_more("sticky = { prefix = { v6 = 129 } }"),
        "unknown_policy": with_more("balance = \"least_conn\""),
        "factor_below_the_mean": with_more("balance = \"maglev\"\nbalance_factor = 99"),
        "factor_as_text": with_more("balance = \"maglev\"\nbalance_factor = \"125%\""),
    }
}

#[test]
fn lists_of_clients() {
    let with_listener = |keys: &str| SMALLEST.replace("pool = \"web\"\n", &format!("pool = \"web\"\n{keys}\n"));
    page! {
        "refused_lists_of_clients";
        "no_network": with_listener("allow = [\"10.0.0.0/8\", \"example.com\"]"),
        "bits_behind_the_prefix": with_listener("deny = \"10.0.0.1/8\""),
        "empty_allow": with_listener("allow = []"),
        "empty_deny": with_listener("deny = []"),
        "in_both": with_listener("allow = [\"10.0.0.0/8\", \"::1\"]\ndeny = [\"192.0.2.1\", \"::1/128\"]"),
        "number": with_listener("deny = 10"),
        "table_without_file": with_listener("deny = {}"),
        "unknown_key": with_listener("allow = { fil = \"a.txt\" }"),
        "no_path": with_listener("allow = { file = \"\" }"),
    }
}

#[test]
fn fallbacks() {
    let pools = |all: &[(&str, &str)]| {
        let one =
            |(name, fallback): &(&str, &str)| format!("[pools.{name}]\nbackends = [\"a:1\"]\nfallback = {fallback}\n");
        format!("{SMALLEST}{}", all.iter().map(one).collect::<String>())
    };
    page! {
        "refused_fallbacks";
        "no_such_pool": with_more("fallback = \"wep\""),
        "no_string": with_more("fallback = [\"web\"]"),
        "empty": with_more("fallback = \"\""),
        "itself": with_more("fallback = \"web\""),
        "circle_of_two": pools(&[("a", "\"b\""), ("b", "\"a\"")]),
        "circle_of_three_with_a_way_in": pools(&[("in", "\"b\""), ("b", "\"c\""), ("c", "\"a\""), ("a", "\"b\"")]),
        "two_circles": pools(&[("a", "\"b\""), ("b", "\"a\""), ("c", "\"c\"")]),
    }
}

#[test]
fn limits_of_clients() {
    let with_listener = |keys: &str| SMALLEST.replace("pool = \"web\"\n", &format!("pool = \"web\"\n{keys}\n"));
    page! {
        "refused_limits_of_clients";
        "nothing_limited": with_listener("per_client = { prefix = { v4 = 24 } }"),
        "zero_connections": with_listener("per_client = { max_connections = 0 }"),
        "zero_rate": with_listener("per_client = { rate = 0 }"),
        "rate_as_text": with_listener("per_client = { rate = \"10/s\" }"),
        "huge_rate": with_listener("accept = { rate = 1e9 }"),
        "burst_alone": with_listener("per_client = { max_connections = 5, burst = 3 }"),
        "zero_burst": with_listener("accept = { rate = 3, burst = 0 }"),
        "long_prefix": with_listener("per_client = { rate = 3, prefix = { v4 = 33 } }"),
        "unknown_mode": with_listener("per_client = { rate = 3, mode = \"dry\" }"),
        "unknown_action": with_listener("per_client = { rate = 3, action = \"drop\" }"),
        "wait_keys_without_wait": with_listener("per_client = { rate = 3, max_waiting = 20, wait_timeout = \"1s\" }"),
        "few_waiting": with_listener("per_client = { rate = 3, action = \"wait\", max_waiting = 3, wait_timeout = \"0s\" }"),
        "few_clients": with_listener("per_client = { rate = 3, max_clients = 10 }"),
        "accept_without_a_limit": with_listener("accept = {}"),
        "zero_handshakes": with_listener("accept = { handshakes = 0 }"),
        "unknown_key": with_listener("accept = { rates = 3 }"),
    }
}

#[test]
fn zones() {
    let at_top = |line: &str| format!("{line}\n{SMALLEST}");
    page! {
        "refused_zones";
        "empty": at_top("zone = \"\""),
        "control_character": at_top("zone = \"a\\nb\""),
        "too_long": at_top(&format!("zone = \"{}\"", "a".repeat(65))),
        "number": at_top("zone = 3"),
        "table_without_consul": at_top("zone = {}"),
        "unknown_key": at_top("zone = { consol = \"zone\" }"),
        "consul_as_a_switch": at_top("zone = { consul = true }"),
        "consul_empty": at_top("zone = { consul = \"\" }"),
        "unset_variable": at_top("zone = \"${NO_ZONE}\""),
        "of_a_backend": with_pool("backends = [{ address = \"a:1\", zone = \"\" }, { address = \"b:1\", zone = 1 }]"),
        "of_a_pool": with_more("zone = \"a\""),
    }
}

#[test]
fn types() {
    page! {
        "refused_types";
        "bare_duration": with_more("timeouts = { idle = 5 }"),
        "duration_time": with_more("timeouts = { idle = 10:30:00 }"),
        "number_for_string": SMALLEST.replace("\"web\"", "5"),
        "string_for_number": with_more("connect = { attempts = \"3\" }"),
        "fraction_for_number": with_more("connect = { attempts = 1.5 }"),
        "string_for_boolean": with_more("required = \"true\""),
        "array_for_table": with_more("check = [\"http\"]"),
        "string_for_table": "listeners = \"web\"",
        "table_for_string": with_more("balance = { kind = \"round_robin\" }"),
        "string_for_array": with_pool("backends = \"10.0.0.1:9090\""),
        "wrong_bind": SMALLEST.replace("\"0.0.0.0:8080\"", "8080"),
        "wrong_bind_item": SMALLEST.replace("\"0.0.0.0:8080\"", "[\"0.0.0.0:8080\", 8081]"),
        "wrong_backend": with_pool("backends = [\"10.0.0.1:9090\", 9090]"),
        "wrong_keepalive": with_more("tcp = { keepalive = \"60s\" }"),
        "huge_number": "workers = 99999999999999999999999",
        "wrong_token": with_more("[consul]\ntoken = 123456"),
        "all_of_the_shape_before_the_values": with_more("requird = true\nbalance = \"x\"\nconnect = { atempts = 3, timeout = 5 }"),
    }
}

#[test]
fn listeners() {
    page! {
        "refused_listeners";
        "no_listeners": "[pools.web]\nbackends = [\"10.0.0.1:9090\"]\n",
        "no_pool_no_bind": with_more("[listeners.wep]"),
        "unknown_pool": SMALLEST.replace("pool = \"web\"", "pool = \"wbe\""),
        "unknown_pool_far": SMALLEST.replace("pool = \"web\"", "pool = \"database\""),
        "no_pools": "[listeners.web]\nbind = \"0.0.0.0:8080\"\npool = \"web\"\n",
        "host_name_in_bind": SMALLEST.replace("0.0.0.0", "localhost"),
        "bind_without_address": SMALLEST.replace("0.0.0.0:8080", ":8080"),
        "bind_without_port": SMALLEST.replace("0.0.0.0:8080", "0.0.0.0"),
        "bind_without_brackets": SMALLEST.replace("0.0.0.0:8080", ":::8080"),
        "bind_empty": SMALLEST.replace("\"0.0.0.0:8080\"", "[]"),
        "bind_twice": with_more("[listeners.b]\nbind = [\"0.0.0.0:81\", \"0.0.0.0:8080\"]\npool = \"web\""),
        "bind_covered": with_more("[listeners.b]\nbind = \"10.0.0.1:8080\"\npool = \"web\""),
        "bind_covers": with_more("[listeners.b]\nbind = [\"[::1]:81\", \"[::]:81\"]\npool = \"web\""),
        "bind_covers_admin": with_more("[listeners.b]\nbind = \"[::]:9900\"\npool = \"web\""),
        "bind_of_admin": SMALLEST.replace("0.0.0.0:8080", "127.0.0.1:9900"),
        "wrong_name": with_more("[listeners.\"a b\"]\nbind = \"0.0.0.0:81\"\npool = \"web\""),
        "max_connections_zero": format!("max_connections = 0\n{SMALLEST}"),
        "workers_negative": format!("workers = -1\n{SMALLEST}"),
        "log_level": with_more("[log]\nlevel = \"info,evenkeel::probe=degub\""),
    }
}

#[test]
fn pools() {
    page! {
        "refused_pools";
        "no_source": with_pool("balance = \"round_robin\""),
        "two_sources": with_more("consul = { service = \"web\" }"),
        "file_and_list": with_more("file = \"b.json\""),
        "file_of_no_name": with_pool("file = \"\""),
        "file_as_table": with_pool("file = { path = \"b.json\" }"),
        "http_without_url": with_pool("http = { interval = \"500ms\" }"),
        "http_other_scheme": with_pool("http = { url = \"ftp://a/b\" }"),
        "http_with_password": with_pool("http = { url = \"https://u:hunter2@a.example/b\" }"),
        "http_no_host": with_pool("http = { url = \"http://\" }"),
        "http_no_port": with_pool("http = { url = \"http://a:x/b\" }"),
        "http_odd_character": with_pool("http = { url = \"http://a/b c\" }"),
        "http_two_tokens": with_pool("http = { url = \"http://a/b\", token = \"x\", token_file = \"/x\" }"),
        "http_half_a_certificate": with_pool("http = { url = \"https://a/b\", cert_file = \"/x\" }"),
        "dns_without_name": with_pool("dns = { type = \"a\" }"),
        "dns_as_text": with_pool("dns = \"_pg._tcp.example\""),
        "dns_address_for_name": with_pool("dns = { name = \"10.0.0.1\" }"),
        "dns_wrong_name": with_pool("dns = { name = \"a b\", type = \"mx\" }"),
        "dns_a_without_port": with_pool("dns = { name = \"tasks.web\", type = \"a\" }"),
        "dns_srv_with_port": with_pool("dns = { name = \"_pg._tcp.example\", port = 80 }"),
        "dns_resolver_by_name": with_pool("dns = { name = \"tasks.web\", resolvers = [\"ns.example:53\", \"10.0.0.1:0\"] }"),
        "dns_no_resolver": with_pool("dns = { name = \"tasks.web\", resolvers = [] }"),
        "dns_times_crossed": with_pool("dns = { name = \"tasks.web\", min_ttl = \"1m\", max_ttl = \"5s\", timeout = \"0s\" }"),
        "wrong_balance": with_more("balance = \"round-robin\""),
        "wrong_balance_far": with_more("balance = \"fastest\""),
        "own_listener": "[listeners.web]\nbind = \"10.0.0.1:80\"\npool = \"web\"\n\
            [pools.web]\nbackends = [\"10.0.0.1:81\", { address = \"[::ffff:10.0.0.1]:80\" }]\n",
        "own_wildcard": "[listeners.web]\nbind = [\"0.0.0.0:80\", \"[::]:81\"]\npool = \"web\"\n\
            [pools.web]\nbackends = [\"127.0.0.9:80\", \"[::1]:80\", \"0.0.0.0:80\", \"127.0.0.1:81\", \"[::1]:81\"]\n",
        "no_backends": with_pool("backends = []"),
        "backend_without_port": with_pool("backends = [\"10.0.0.1\"]"),
        "backend_wrong_address": with_pool("backends = [\"10.0.0.256:80\"]"),
        "backend_twice": with_pool("backends = [\n  \"10.0.0.1:80\",\n  { address = \"10.0.0.1:80\", weight = 2 },\n]"),
        "backend_id_twice": with_pool("backends = [{ id = \"a\", address = \"b:1\" }, { id = \"a\", address = \"c:1\" }]"),
        "backend_wrong_weight": with_pool("backends = [{ address = \"b:1\", weight = 65536 }]"),
        "backend_without_address": with_pool("backends = [{ weight = 1 }]"),
        "consul_without_service": with_pool("consul = { tags = [\"a\"] }"),
        "consul_wrong_word": with_pool("consul = { service = \"web\", warning = \"ot\" }"),
        "consul_wrong_address": with_pool("consul = { service = \"web\", address = \"ftp://consul:8500\" }"),
        "consul_token_twice": with_pool("consul = { service = \"web\", token = \"s3cr3t\", token_file = \"/run/token\" }"),
        "consul_wrong_token": with_pool("consul = { service = \"web\", token = \"s3c r3t\" }"),
        "consul_impossible_service": with_pool("consul = { service = \"..\" }"),
        "duration_without_unit": with_more("connect = { timeout = \"1500\" }"),
        "duration_fraction": with_more("connect = { timeout = \"1.5s\" }"),
        "hedge_number": with_more("connect = { hedge = 300 }"),
        "retry_budget_text": with_more("connect = { retry_budget = \"20%\" }"),
        "retry_budget_negative": with_more("connect = { retry_budget = -1 }"),
        "replay_wrong_word": with_more("replay = \"always\""),
        "replay_buffer_alone": with_more("replay_buffer = \"64KiB\""),
        "replay_buffer_too_large": with_more("replay = \"until_response\"\nreplay_buffer = \"1GiB\""),
        "queue_without_timeout": with_more("queue = { max_length = 10 }"),
        "queue_empty": with_more("queue = {}"),
        "queue_unknown_key": with_more("queue = { max_len = 10, timeout = \"1s\" }"),
        "queue_of_nobody": with_more("queue = { max_length = 0, timeout = \"0s\" }"),
        "wait_without_queue": with_more("when_all_down = \"wait\""),
        "duration_zero": with_more("connect = { timeout = \"0s\" }"),
        "backlog_on_pool": with_more("tcp = { backlog = 128 }"),
        "keepalive_fraction": with_more("tcp = { keepalive = { idle = \"1500ms\" } }"),
        "backup_next_to_priority": with_pool("backends = [{ address = \"b:1\", backup = true, priority = 2 }]"),
        "priority_too_large": with_pool("backends = [{ address = \"b:1\", priority = 16 }]"),
        "spill_wrong_word": with_more("spill = [\"fail\"]"),
        "spill_twice": with_more("spill = [\"full\", \"full\"]"),
        "spill_switch": with_more("spill = false"),
        "overprovisioning_too_small": with_more("overprovisioning = 0.5"),
        "overprovisioning_text": with_more("overprovisioning = \"1.4\""),
        "panic_threshold_too_large": with_more("panic_threshold = 101"),
        "outliers_wrong_word": with_more("outliers = { mode = \"ejct\" }"),
        "outliers_unknown_key": with_more("outliers = { max_ejectd = 50 }"),
        "outliers_ejection_longer_than_max": with_more("outliers = { ejection = \"10m\", max_ejection = \"5m\" }"),
        "damping_longer_than_max": with_more("damping = { stay_up = \"1m\", max_stay_up = \"10s\" }"),
        "guard_hold_no_time": with_more("guard = { hold = \"-1s\" }"),
        "guard_unknown_key": with_more("guard = { hodl = \"1s\" }"),
        "many_at_once": with_more("balance = \"x\"\nconnect = { timeout = \"x\", attempts = 0 }\n[log]\nformat = \"xml\""),
    }
}

#[test]
fn closing() {
    page! {
        "refused_closing";
        "wrong_word": with_more("on_down = \"closed\""),
        "drain_without_time": with_more("on_removed = \"drain\""),
        "drain_as_time": with_more("on_maintenance = \"30s\""),
        "empty_table": with_more("on_down = {}"),
        "unknown_key": with_more("on_down = { drian = \"30s\" }"),
        "zero_time": with_more("on_removed = { drain = \"0s\" }"),
        "number": with_more("on_down = 30"),
        "negative_rate": with_more("close_rate = -1"),
        "rate_as_text": with_more("close_rate = \"10/s\""),
        "deadline_without_unit": with_more("close_deadline = \"60\""),
        "jitter_beyond": with_more("max_lifetime = \"1h\"\nmax_lifetime_jitter = 101"),
        "rebalance_as_switch": with_more("rebalance = true"),
        "rebalance_threshold": with_more("rebalance = { threshold = 0 }"),
        "rebalance_rate": with_more("rebalance = { max_per_second = \"5/s\" }"),
        "rebalance_rate_of_none": with_more("rebalance = { max_per_second = 0 }"),
        "rebalance_age": with_more("rebalance = { min_age = 60 }"),
        "rebalance_prefer": with_more("rebalance = { prefer = \"idel\" }"),
        "rebalance_unknown_key": with_more("rebalance = { treshold = 10 }"),
        "rebalance_of_one_after_the_other": with_more("balance = \"first\"\nrebalance = {}"),
        "rebalance_by_time": with_more("balance = \"least_time\"\nrebalance = {}"),
        "rebalance_and_sticky": with_more("sticky = {}\nrebalance = {}"),
        "rebalance_of_a_hash": with_more("balance = \"ring_hash\"\nrebalance = {}"),
    }
}

#[test]
fn bandwidth() {
    page! {
        "refused_bandwidth";
        "number": with_more("bandwidth = 10"),
        "rate_as_number": with_more("bandwidth = { to_client = 10 }"),
        "size_alone": with_more("bandwidth = { to_client = \"10MiB\" }"),
        "number_alone": with_more("bandwidth = { to_client = \"10\" }"),
        "no_unit": with_more("bandwidth = { to_client = \"10/s\" }"),
        "bits": with_more("bandwidth = { to_client = \"10Mbit/s\" }"),
        "a_minute": with_more("bandwidth = { to_client = \"10MiB/min\" }"),
        "nothing_a_second": with_more("bandwidth = { to_backend = \"0B/s\" }"),
        "too_small": with_more("bandwidth = { to_backend = \"1000B/s\" }"),
        "too_large": with_more("bandwidth = { to_backend = \"1001GiB/s\" }"),
        "no_direction": with_more("bandwidth = { scope = \"pool\" }"),
        "wrong_scope": with_more("bandwidth = { to_client = \"1MiB/s\", scope = \"clients\" }"),
        "wrong_key": with_more("bandwidth = { to_server = \"1MiB/s\" }"),
    }
}

#[test]
fn checks() {
    page! {
        "refused_checks";
        "path_for_tcp": with_more("check = { path = \"/health\" }"),
        "path_for_script": with_more("check = { kind = \"script\", path = \"/\", steps = [{ send = \"x\" }] }"),
        "interval_for_none": with_more("check = { kind = \"none\", interval = \"2s\" }"),
        "wrong_kind": with_more("check = { kind = \"htpp\", path = \"/health\" }"),
        "wrong_status": with_more("[pools.web.check]\nkind = \"http\"\nstatus = \"2xx\""),
        "number_for_status": with_more("[pools.web.check]\nkind = \"http\"\nstatus = 200"),
        "wrong_path": with_more("[pools.web.check]\nkind = \"http\"\npath = \"/a\\r\\nX-Evil: 1\""),
        "wrong_host": with_more("[pools.web.check]\nkind = \"http\"\nhost = \"a b\""),
        "wrong_method": with_more("[pools.web.check]\nkind = \"http\"\nmethod = \"get\""),
        "wrong_regex": with_more("[pools.web.check]\nkind = \"http\"\nbody_regex = \"ok(\""),
        "no_steps": with_more("[pools.web.check]\nkind = \"script\""),
        "step_with_two_keys": with_more("check = { kind = \"script\", steps = [{ send = \"a\", expect = \"b\" }, {}] }"),
        "step_that_waits_for_nothing": with_more("check = { kind = \"script\", steps = [{ expect_regex = \".*\" }] }"),
        "step_wrong_hex": with_more("check = { kind = \"script\", steps = [{ send_hex = \"0a0\" }] }"),
        "expect_not_without_expect": with_more("check = { kind = \"script\", steps = [{ expect = \"a\" }, { expect_not = \"b\" }, { send = \"c\" }] }"),
        "header_that_is_ours": with_more("check = { kind = \"http\", headers = { Host = \"s3cr3t\", Content-Length = \"5\" } }"),
        "header_that_breaks_out": with_more("check = { kind = \"http\", headers = { X = \"s3cr3t\\r\\nY: 1\", \"a b\" = \"s3cr3t\" } }"),
        "headers_for_tcp": with_more("check = { headers = { X = \"s3cr3t\" } }"),
        "expected_header_of_no_kind": with_more("check = { kind = \"http\", expect_headers = { X = 5 } }"),
        "expected_header_without_pattern": with_more("check = { kind = \"http\", expect_headers = { X = {}, Y = { regex = \"(\" } } }"),
        "request_body_without_method": with_more("check = { kind = \"http\", request_body = \"s3cr3t\" }"),
        "expect_not_for_head": with_more("check = { kind = \"http\", method = \"HEAD\", expect_not = \"a\" }"),
        "expect_not_twice": with_more("check = { kind = \"http\", expect_not = \"a\", expect_not_regex = \"b\" }"),
        "linger_for_http": with_more("check = { kind = \"http\", linger = true }"),
        "alpn_for_http": with_more("check = { kind = \"http\", tls = true, alpn = \"h2\" }"),
        "alpn_without_tls": with_more("check = { kind = \"redis\", alpn = \"redis\" }"),
        "alpn_empty": with_more("check = { kind = \"tls\", alpn = \"\" }"),
        "run_as_for_tcp": with_more("check = { run_as = \"nobody\" }"),
        "run_as_nobody": with_more("check = { kind = \"exec\", command = \"/c\", run_as = \"a:b:c\" }"),
    }
}

#[test]
fn kinds() {
    let named = |name: &str, table: &str| format!("{}\n[checks.{name}]\n{table}", with_more("check = \"fast\""));
    page! {
        "refused_kinds";
        "unknown_check": named("fats", "kind = \"tcp\""),
        "unknown_check_far": named("thorough", "kind = \"tcp\""),
        "unknown_check_of_none": with_more("check = \"fast\""),
        "name_of_check": named("\"a b\"", "kind = \"tcp\""),
        "fault_in_a_named_check": named("fast", "kind = \"tcp\"\npath = \"/\""),
        "number_for_check": with_more("check = 5"),
        "role_for_tcp": with_more("check = { role = \"master\" }"),
        "wrong_role": with_more("check = { kind = \"redis\", role = \"slave\" }"),
        "password_twice": with_more("check = { kind = \"redis\", password = \"s3cr3t\", password_file = \"/run/p\" }"),
        "password_empty": with_more("check = { kind = \"redis\", password = \"\" }"),
        "username_alone": with_more("check = { kind = \"redis\", username = \"me\" }"),
        "tls_for_postgres": with_more("check = { kind = \"postgres\", tls = true }"),
        "verify_without_tls": with_more("check = { kind = \"http\", verify = false }"),
        "verify_for_tcp": with_more("check = { verify = false }"),
        "wrong_server_name": with_more("check = { kind = \"tls\", server_name = \"a b\" }"),
        "wrong_expires_within": with_more("check = { kind = \"tls\", expires_within = \"2w\" }"),
        "no_command": with_more("check = { kind = \"exec\" }"),
        "command_empty": with_more("check = { kind = \"exec\", command = [] }"),
        "command_not_absolute": with_more("check = { kind = \"exec\", command = \"check.sh --quick\" }"),
        "send_proxy_for_exec": with_more("check = { kind = \"exec\", command = \"/bin/true\", send_proxy = \"v1\" }"),
        "agent_without_port": with_more("agent = { interval = \"1s\" }"),
        "agent_unknown_key": with_more("agent = { prot = 9100 }"),
        "agent_switch": with_more("agent = true"),
    }
}

#[test]
fn header() {
    let front = |accept: &str| SMALLEST.replace("pool = \"web\"", &format!("pool = \"web\"\naccept_proxy = {accept}"));
    page! {
        "refused_header";
        "accept_switch": front("true"),
        "accept_without_from": front("{ timeout = \"1s\" }"),
        "accept_from_nobody": front("{ from = [] }"),
        "accept_wrong_network": front("{ from = [\"10.0.0.0/8\", \"proxy.example\"] }"),
        "accept_wrong_prefix": front("{ from = \"10.0.0.0/33\" }"),
        "accept_bits_behind_prefix": front("{ from = \"10.1.2.3/8\" }"),
        "accept_mapped": front("{ from = \"::ffff:10.0.0.0/104\" }"),
        "accept_timeout_zero": front("{ from = \"10.0.0.0/8\", timeout = \"0s\" }"),
        "accept_unknown_key": front("{ from = \"10.0.0.0/8\", require = true }"),
        "send_wrong_version": with_more("send_proxy = \"2\""),
        "send_number": with_more("send_proxy = 2"),
        "send_wrong_version_in_table": with_more("send_proxy = { version = \"v3\", tlvs = false }"),
        "send_without_version": with_more("send_proxy = { crc32c = true }"),
        "send_values_in_v1": with_more("send_proxy = { version = \"v1\", unique_id = true, crc32c = false }"),
        "send_wrong_authority": with_more("send_proxy = { version = \"v2\", authority = \"a b\" }"),
        "check_true": with_more("send_proxy = \"v1\"\ncheck = { send_proxy = true }"),
        "check_wrong_version": with_more("check = { send_proxy = \"v4\" }"),
        "check_wrong_type": with_more("check = { send_proxy = 1 }"),
        "check_of_none": with_more("check = { kind = \"none\", send_proxy = \"v1\" }"),
    }
}

#[test]
fn variables() {
    page! {
        "refused_variables";
        "unset": SMALLEST.replace("0.0.0.0", "${HOST}"),
        "unclosed": SMALLEST.replace("0.0.0.0", "${HOST"),
        "without_name": SMALLEST.replace("0.0.0.0", "${}"),
    }
    let consul = with_pool("consul = { service = \"web\" }");
    let filled_in = SMALLEST.replace("0.0.0.0", "${HOST}");
    let messages = [
        refused_with(&filled_in, &[("HOST", "a b")]),
        refused_with(&consul, &[("CONSUL_HTTP_ADDR", "consul")]),
        refused_with(&consul, &[("CONSUL_HTTP_SSL", "maybe")]),
        refused_with(&consul, &[("CONSUL_HTTP_TOKEN", "s3cr3t\n")]),
    ];
    snapshot("refused_environment", &messages.join("\n\n"));
}
