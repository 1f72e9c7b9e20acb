// For bench/cold: a reactor with encoding/json in it, as much of Go's runtime as usual guests have.
// What is called is add, so that the instance is measured and not what it computes.
package main

import "encoding/json"

//go:wasmexport add
func add(a, b float64) float64 { return a + b }

//go:wasmexport sum
func sum(a, b float64) float64 {
	text, _ := json.Marshal([]float64{a, b})
	var v []float64
	if json.Unmarshal(text, &v) != nil || len(v) != 2 {
		return -1
	}
	return v[0] + v[1]
}

func main() {}
