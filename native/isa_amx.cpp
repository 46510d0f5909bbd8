#if defined(__x86_64__)
#define ROPEWAY_TILES
#include "kernels.h"
#include "linear_amx.h"

#if defined(ROPEWAY_EMULATE_TILES)
#define ROPEWAY_VARIABLE kernelsAmxEmulated
#define ROPEWAY_NAME "amx-emulated"
#else
#define ROPEWAY_VARIABLE kernelsAmx
#define ROPEWAY_NAME "amx"
#endif

extern const Kernels ROPEWAY_VARIABLE = {
    ROPEWAY_NAME,
    {
        {"linear_q8", linear<TileCodedProduct<TileQ8>>},
        {"linear_q4", linear<TileCodedProduct<TileQ4>>},
        {"linear_bf16", linear<TilePairProduct>},
        {"embed", embed},
        {"matmul_bf16", matmul<TilePairProduct>},
    },
    packRows,
};
#endif
