"""Write a page of the samples that one feature classifies correctly and another does not."""
