//! Sessions that survive: clients do not notice a backend that fails while another one works.

mod first_byte;
