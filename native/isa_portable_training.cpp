#define ROPEWAY_PORTABLE
#include "isa_training.h"
ROPEWAY_TRAINING_TABLE(trainingPortable);
