#if defined(__x86_64__)
#define ROPEWAY_TILES
#include "kernels.h"
#if !defined(ROPEWAY_LEFT_OUT)
#include "attention_amx.h"
#include "experts.h"
#include "linear_amx.h"
#include "matmul_amx.h"
#include "train_attention_amx.h"
#endif

#if defined(ROPEWAY_EMULATE_TILES)
#define ROPEWAY_VARIABLE kernelsAmxEmulated
#define ROPEWAY_NAME "amx-emulated"
#else
#define ROPEWAY_VARIABLE kernelsAmx
#define ROPEWAY_NAME "amx"
#endif

extern const Kernels ROPEWAY_VARIABLE = {
    ROPEWAY_NAME,
#if defined(ROPEWAY_LEFT_OUT)
    {},
    &kernelsAvx512,
    nullptr,
    nullptr,
#else
    {
        {"linear_q8", linear<TileCodedProduct<Q8Codes>>},
        {"linear_q8_into_codes", linear<TileCodedProduct<Q8Codes>, intoCodes>},
        {"linear_q8_of_codes", linear<TileCodedProduct<Q8Codes>, ofCodes>},
        {"linear_q4", linearByTiles<Q4Codes>},
        {"linear_q5", linearByTiles<Q5Codes>},
        {"linear_q4s", linearByTiles<Q4SCodes>},
        {"linear_q5s", linearByTiles<Q5SCodes>},
        {"linear_q4k", linearByTiles<Q4KCodes>},
        {"linear_q5k", linearByTiles<Q5KCodes>},
        {"linear_bf16", linear<TilePairProduct>},
        // Its codes lie for tiles; those of other formats as AVX-512 has them.
        {"experts_q8", experts<CodedProduct<Q8Codes>>},
        {"paged_attention", pagedAttentionByTiles},
        {"embed", embed},
        {"matmul_bf16", matmulByTiles},
        {"causal_attention", causalAttentionTiles},
        {"causal_attention_back", causalAttentionBackTiles},
    },
    &kernelsAvx512,
    nullptr,
    packRows,
#endif
};
#endif
