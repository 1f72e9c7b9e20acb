// Adds two numbers: curl localhost:8080/api/exec/add_go -d '[2.5,3.7]'
package main

//go:wasmexport add
func add(a, b float64) float64 {
	return a + b
}

func main() {}
