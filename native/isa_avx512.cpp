#if defined(__x86_64__)
#include "isa.h"
#include "vectors.h"
ROPEWAY_TABLE(kernelsAvx512, "avx512");

#if !defined(ROPEWAY_LEFT_OUT)
namespace {

template <class Codes>
void piecesOf(Call* call, const void* product, const char* packed, size_t stride, size_t rows, const void* epilogue) {
  multiplyPieces(call, *static_cast<const CodedProduct<Codes>*>(product), packed, stride, rows,
                 *static_cast<const Epilogue*>(epilogue));
}

constexpr VectorCode makeVectorCode() {
  VectorCode code = {};
  code.pieces[packedQ4] = piecesOf<Q4Codes>, code.pieces[packedQ5] = piecesOf<Q5Codes>;
  code.pieces[packedQ4S] = piecesOf<Q4SCodes>, code.pieces[packedQ5S] = piecesOf<Q5SCodes>;
  code.pieces[packedQ4K] = piecesOf<Q4KCodes>, code.pieces[packedQ5K] = piecesOf<Q5KCodes>;
  code.causalAttention = causalAttention, code.causalAttentionBack = causalAttentionBack;
  code.packRowsWith = packRowsWith;
  return code;
}

}  // namespace

extern const VectorCode vectorCode = makeVectorCode();
#endif
#endif
