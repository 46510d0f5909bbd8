/** Sizes of new mixtures of experts. */
const mixtures = ['mixtral', 'qwen3_moe', 'olmoe', 'granitemoe', 'gpt_oss'] as const

export function isMixture(architecture: string): architecture is (typeof mixtures)[number] {
  return (mixtures as readonly string[]).includes(architecture)
}

/** E and K. */
export interface ExpertSizes {
  experts: number
  used: number
}

export function expertSizes(sizes: {
  experts?: number | undefined
  experts_used?: number | undefined
}): ExpertSizes {
  return { experts: sizes.experts ?? 8, used: sizes.experts_used ?? 2 }
}
