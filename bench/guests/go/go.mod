module weir/bench/guest

go 1.24
