package main

import "syscall"

// What follows needs a processor of another kind.

func compatGetpid() error { return syscall.EPERM }

func ioPorts() error { return syscall.EPERM }

func ioLevel() error { return syscall.EPERM }

func x32Mount() error { return syscall.EPERM }
