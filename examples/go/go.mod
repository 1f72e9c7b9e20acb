module draw

go 1.24
