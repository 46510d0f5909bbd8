#if defined(__x86_64__)
#include "kernels.h"
#if !defined(ROPEWAY_LEFT_OUT)
#include "experts.h"
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
        {"linear_mx4", linear<CodedProduct<MX4Codes>>},
        {"experts_q8", experts<CodedProduct<Q8Codes>>},
        {"experts_q4", experts<CodedProduct<Q4Codes>>},
        {"experts_q5", experts<CodedProduct<Q5Codes>>},
        {"experts_q4s", experts<CodedProduct<Q4SCodes>>},
        {"experts_q5s", experts<CodedProduct<Q5SCodes>>},
        {"experts_q4k", experts<CodedProduct<Q4KCodes>>},
        {"experts_q5k", experts<CodedProduct<Q5KCodes>>},
        {"experts_q6k", experts<CodedProduct<Q6KCodes>>},
        {"experts_mx4", experts<CodedProduct<MX4Codes>>},
        {"embed", embed},
        {"multiply_bytes", multiplyBytes},
    },
    &kernelsAvx2,
    nullptr,
    packRows,
#endif
};
#endif
