#if defined(__x86_64__)
#include "kernels.h"
#if !defined(ROPEWAY_LEFT_OUT)
#include "linear_coded.h"
#include "linear_float.h"
#include "read.h"
#endif

extern const Kernels kernelsAvxVnni = {
    "avxvnni",
#if defined(ROPEWAY_LEFT_OUT)
    {},
    &kernelsAvx2,
    nullptr,
    nullptr,
#else
    {
        {"linear_q8", linear<CodedProduct<Q8Codes>>},
        {"linear_q4", linear<CodedProduct<Q4Codes>>},
        {"linear_q5", linear<CodedProduct<Q5Codes>>},
        {"linear_q4s", linear<CodedProduct<Q4SCodes>>},
        {"linear_q5s", linear<CodedProduct<Q5SCodes>>},
        {"linear_q4k", linear<CodedProduct<Q4KCodes>>},
        {"linear_q5k", linear<CodedProduct<Q5KCodes>>},
        {"linear_q6k", linear<CodedProduct<Q6KCodes>>},
        {"embed", embed},
        {"multiply_bytes", multiplyBytes},
    },
    &kernelsAvx2,
    nullptr,
    packRows,
#endif
};
#endif
