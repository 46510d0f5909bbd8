/** The part of node-llama-cpp's interface that is used here; the package is not a dependency. */
export interface RivalModule {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<RivalModel> }>
}
export interface RivalModel {
  createContext(options: object): Promise<RivalContext>
}
export interface RivalContext {
  getSequence(): RivalSequence
  dispose(): Promise<void>
}
export interface RivalSequence {
  clearHistory(): Promise<void>
  evaluate(tokens: readonly number[], options: object): AsyncGenerator<number>
}
