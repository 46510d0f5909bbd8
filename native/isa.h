// Included last by each isa_*.cpp, after the macro ROPEWAY_KERNELS names its table.
#include "attention.h"
#include "cache.h"
#include "kernels.h"

#define ROPEWAY_TEXT(name) #name
#define ROPEWAY_TABLE(variable, text)        \
  extern const Kernels variable = {          \
      text,                                  \
      lanes,                                 \
      {                                      \
          {"rope_table", ropeTable},         \
          {"store_keys_values", storeKeysValues}, \
          {"paged_attention", pagedAttention}, \
      },                                     \
  }
