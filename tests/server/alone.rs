//! Tests which load the machine and measure time: nothing runs beside them.

mod abuse;
