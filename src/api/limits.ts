/** Bounds on what one request may ask. They are part of the schemas, so a refusal names the field. */
export interface RequestLimits {
  /** Prompts in one completion request. */
  promptsMax: number
  /** Texts of one request for embeddings. */
  embeddingInputsMax: number
  /** `n`: answers to one prompt. */
  choicesMax: number
  /** Prompts times answers in one request. */
  sequencesMax: number
  messagesMax: number
  toolsMax: number
  /** Of `chat_template_kwargs` as JSON. */
  templateCharactersMax: number
  stopStringsMax: number
  stopCharactersMax: number
  stopTokensMax: number
  /** Alternatives reported for each token. */
  logprobsMax: number
  logitBiasesMax: number
  /** The least urgent class; 0 is the most urgent and the default. */
  priorityMax: number
  /** How long a request may pin its prompt in the cache. */
  pinSecondsMax: number
}

export const requestLimits: RequestLimits = {
  promptsMax: 128,
  embeddingInputsMax: 2048,
  choicesMax: 64,
  sequencesMax: 128,
  messagesMax: 4096,
  toolsMax: 128,
  templateCharactersMax: 65_536,
  stopStringsMax: 16,
  stopCharactersMax: 512,
  stopTokensMax: 64,
  logprobsMax: 20,
  logitBiasesMax: 1024,
  priorityMax: 15,
  pinSecondsMax: 3600,
}
