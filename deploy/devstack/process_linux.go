package main

import "syscall"

func childAttributes(death syscall.Signal, cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: death, Credential: cred}
}
