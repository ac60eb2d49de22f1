// What the Python side (build.py) calls of a kernel's library beside its own `extern "C" int simt_launch(...)`.
#pragma once
#include "pointer.h"

extern "C" const char* simt_error() { return simt::m.error; }
extern "C" std::size_t simt_error_place(int i) { return unsigned(i) < simt::m.places ? simt::m.place[i] : 0; }
