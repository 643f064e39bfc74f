package main

import _ "embed"

// notices has the licences of what is linked into the program, which go wherever it
// goes. make notices writes it.
//
//go:embed notices.txt
var notices string
