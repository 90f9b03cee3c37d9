//! What a person reads about routes that are written wrong.

use super::refusals::{page, refused};
use super::{SMALLEST, snapshot};

#[test]
fn routes() {
    let with = |more: &str| SMALLEST.replace("pool = \"web\"", &format!("pool = \"web\"\n{more}"));
    let route = |route: &str| with(&format!("routes = [{route}]"));
    page! {
        "refused_routes";
        "empty": with("routes = []"),
        "no_array": with("routes = { sni = \"a.example\", pool = \"web\" }"),
        "no_table": route("\"web\""),
        "unknown_key": route("{ snl = \"a.example\", pool = \"web\" }"),
        "unknown_pool": route("{ sni = \"a.example\", pool = \"wbe\" }"),
        "no_pool": route("{ sni = \"a.example\" }"),
        "no_condition": route("{ pool = \"web\" }"),
        "neither_pool_nor_routes": SMALLEST.replace("pool = \"web\"\n", ""),
        "sni_empty": route("{ sni = [], pool = \"web\" }"),
        "sni_number": route("{ sni = 5, pool = \"web\" }"),
        "sni_star_alone": route("{ sni = \"*\", pool = \"web\" }"),
        "sni_star_inside": route("{ sni = [\"a.example\", \"www.*.example\"], pool = \"web\" }"),
        "sni_star_in_a_label": route("{ sni = \"*shop.example\", pool = \"web\" }"),
        "sni_address": route("{ sni = \"10.0.0.1\", pool = \"web\" }"),
        "sni_with_port": route("{ sni = \"a.example:443\", pool = \"web\" }"),
        "sni_no_name": route("{ sni = \"a..example\", pool = \"web\" }"),
        "sni_wrong_encoding": route("{ sni = \"xn--a.example\", pool = \"web\" }"),
        "sni_twice": route("{ sni = [\"a.example\", \"A.Example.\"], pool = \"web\" }"),
        "alpn_empty_name": route("{ alpn = \"\", pool = \"web\" }"),
        "alpn_empty": route("{ alpn = [], pool = \"web\" }"),
        "from_no_network": route("{ from = \"a.example\", pool = \"web\" }"),
        "from_bits_behind": route("{ from = [\"10.0.0.1/8\"], pool = \"web\" }"),
        "from_wrong_prefix": route("{ from = \"10.0.0.0/33\", pool = \"web\" }"),
        "starts_with_nothing": route("{ starts_with = \"\", pool = \"web\" }"),
        "starts_with_hex_odd": route("{ starts_with_hex = \"0a0\", pool = \"web\" }"),
        "starts_with_hex_letters": route("{ starts_with_hex = \"SSH-\", pool = \"web\" }"),
        "starts_with_both": route("{ starts_with = \"SSH-\", starts_with_hex = \"0a\", pool = \"web\" }"),
        "starts_with_too_long": with(&format!("sniff = {{ max = \"512B\" }}\nroutes = [{{ starts_with = \"{}\", pool = \"web\" }}]", "x".repeat(513))),
        "starts_with_and_sni": route("{ starts_with = \"SSH-\", sni = \"a.example\", pool = \"web\" }"),
        "tls_text": route("{ tls = \"true\", pool = \"web\" }"),
        "tls_false_and_sni": route("{ tls = false, sni = \"a.example\", pool = \"web\" }"),
        "tls_false_and_alpn": route("{ tls = false, alpn = \"h2\", pool = \"web\" }"),
        "split_and_pool": route("{ split = { web = 95, web2 = 5 }, pool = \"web\" }"),
        "split_of_one": route("{ split = { web = 5 } }"),
        "split_empty": route("{ split = {} }"),
        "split_array": route("{ split = [\"web\"] }"),
        "split_unknown_pool": route("{ split = { web = 95, canary = 5 } }"),
        "split_of_nothing": with("routes = [{ split = { web = 0, b = 0 } }]") + "[pools.b]\nbackends = [\"10.0.0.1:1\"]\n",
        "split_negative": with("routes = [{ split = { web = -1, b = 2.5 } }]") + "[pools.b]\nbackends = [\"10.0.0.1:1\"]\n",
        "split_too_large": with("routes = [{ split = { web = 1000001, b = 1 } }]") + "[pools.b]\nbackends = [\"10.0.0.1:1\"]\n",
        "split_unknown_hash": with("routes = [{ split = { web = 1, b = 1 }, hash = \"client\" }]") + "[pools.b]\nbackends = [\"10.0.0.1:1\"]\n",
        "hash_without_split": route("{ tls = true, pool = \"web\", hash = \"client_address\" }"),
        "sniff_without_a_need": with("sniff = { timeout = \"1s\" }"),
        "sniff_for_networks": with("sniff = { timeout = \"1s\" }\nroutes = [{ from = \"10.0.0.0/8\", pool = \"web\" }]"),
        "sniff_unknown_key": with("sniff = { timeot = \"1s\" }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_max_small": with("sniff = { max = \"100B\" }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_max_large": with("sniff = { max = \"1GiB\" }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_max_number": with("sniff = { max = 16384 }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_timeout_zero": with("sniff = { timeout = \"0s\" }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_starttls_unknown": with("sniff = { starttls = \"mysql\" }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_starttls_switch": with("sniff = { starttls = true }\nroutes = [{ tls = true, pool = \"web\" }]"),
        "sniff_starttls_without_a_need": with("sniff = { starttls = \"postgres\" }\nroutes = [{ starts_with = \"SSH-\", pool = \"web\" }]"),
        "sniff_timeout_number": with("sniff = { timeout = 3 }\nroutes = [{ tls = true, pool = \"web\" }]"),
    }
}
