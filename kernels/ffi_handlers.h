// The handlers that module.cc registers.
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(TablesBuild);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TablesWrite);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TablesQuery);
XLA_FFI_DECLARE_HANDLER_SYMBOL(UniqueIds);
XLA_FFI_DECLARE_HANDLER_SYMBOL(BagForward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(BagBackward);
