// Package faults breaks what an installation stands on, with the built binaries on real servers and in real time, and holds
// it to the promise that every slot is accounted for once: each slot of a list that the test works out by itself has one row,
// with the outcome that its policy explains, and each run one workflow; and likewise each definition that an event meets.
//
// It takes minutes, so its tests have the build tag faults and a target of their own: make test-faults.
package faults
