package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pidFile records the running services in the data folder, so that the next devstack finds what
// a killed one left running. It is a help, not a promise: failures to write it are ignored.
type pidFile struct {
	path string

	mu      sync.Mutex
	entries map[string]pidEntry
}

type pidEntry struct {
	PID  int    `json:"pid"`
	Path string `json:"path"` // the program, to recognise the process by
}

func newPIDFile(path string) *pidFile {
	return &pidFile{path: path, entries: make(map[string]pidEntry)}
}

func (f *pidFile) set(name string, pid int, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[name] = pidEntry{PID: pid, Path: path}
	f.save()
}

func (f *pidFile) remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, name)
	f.save()
}

func (f *pidFile) save() {
	if len(f.entries) == 0 {
		_ = os.Remove(f.path)
		return
	}
	if text, err := json.Marshal(f.entries); err == nil {
		_ = os.WriteFile(f.path, text, 0o644)
	}
}

// stopLeftOverServices stops the recorded services that still run and returns their names.
func stopLeftOverServices(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil
	}
	var entries map[string]pidEntry
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, os.Remove(path)
	}
	var stopped []string
	for name, e := range entries {
		if e.PID <= 1 || !runs(e.PID, e.Path) {
			continue
		}
		if err := endProcess(e); err != nil {
			return stopped, fmt.Errorf("%s was left running by an earlier devstack: %w", name, err)
		}
		stopped = append(stopped, name)
	}
	return stopped, os.Remove(path)
}

// endProcess stops a process that is not our child.
func endProcess(e pidEntry) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(e.PID, sig); err != nil {
			if !runs(e.PID, e.Path) {
				return nil
			}
			return fmt.Errorf("stop process %d: %w", e.PID, err)
		}
		for deadline := time.Now().Add(serviceStopGrace); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if !runs(e.PID, e.Path) {
				return nil
			}
		}
	}
	return fmt.Errorf("process %d does not end", e.PID)
}

// runs tells whether the process exists and is that program, for the number may have been given to another.
func runs(pid int, program string) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		return strings.TrimSuffix(exe, " (deleted)") == program
	}
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(out)), program)
}
